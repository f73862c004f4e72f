package pdu

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"holdfast/homeserver/mx"
)

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                           `{}`,
		"\n{ \"b\" : 1 ,\t\"a\":[ ] }": `{"a":[],"b":1}`,
		`{"one":1,"two":"Two"}`:        `{"one":1,"two":"Two"}`,
		`{"auth":{"success":true,"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"medium":"email","address":"john.doe@example.org"},{"medium":"msisdn","address":"123456789"}]}}}`: `{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`,
		`{"a":"日本語"}`:              `{"a":"日本語"}`,
		`{"本":2,"日":1}`:            `{"日":1,"本":2}`,
		`{"a":"\u65E5"}`:           `{"a":"日"}`,
		`{"a":null}`:               `{"a":null}`,
		`{"a":-0,"b":10000000000}`: `{"a":0,"b":10000000000}`,
		`{"\u0062":1,"a":2}`:       `{"a":2,"b":1}`,
		`"\u0000\u0008\u0009\u000a\u000b\u000c\u000d\u001f\u007f\/\u0022\\"`: `"\u0000\b\t\n\u000b\f\r\u001f` + "\x7f" + `/\"\\"`,
		`"\ud83d\ude00"`:                                `"😀"`,
		"{\"\ufb00\":1,\"😀\":2}":                        "{\"\ufb00\":1,\"😀\":2}", // by code point, not by UTF-16
		`[9007199254740991,-9007199254740991]`:          `[9007199254740991,-9007199254740991]`,
		`{"":1,"a":{"z":[{"y":1,"x":2}],"b":{}},"A":0}`: `{"":1,"A":0,"a":{"b":{},"z":[{"x":2,"y":1}]}}`,
	} {
		got, err := Canonical([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s\ngives %s %v\nwant  %s", in, got, err, want)
		}
	}
	for in, want := range map[string]error{
		``: ErrSyntax, `{`: ErrSyntax, `{"a":1,}`: ErrSyntax, `[1,]`: ErrSyntax, `{} x`: ErrSyntax, `tru`: ErrSyntax, `nul`: ErrSyntax, `{"a"1}`: ErrSyntax,
		`{a:1}`: ErrSyntax, `"a`: ErrSyntax, "\"\n\"": ErrSyntax, `"\x"`: ErrSyntax, `"\u12"`: ErrSyntax, `01`: ErrSyntax, `-`: ErrSyntax, `1.`: ErrSyntax, `1e`: ErrSyntax, `+1`: ErrSyntax, `'a'`: ErrSyntax,
		`1.5`: ErrNumber, `1.0`: ErrNumber, `1e3`: ErrNumber, `9007199254740992`: ErrNumber, `-9007199254740992`: ErrNumber, `99999999999999999999`: ErrNumber,
		`{"a":1,"a":2}`: ErrDuplicate, `{"b":1,"a":1,"b":1}`: ErrDuplicate, `{"a":1,"\u0061":2}`: ErrDuplicate,
		"\"\xff\"": ErrUTF8, "{\"\xc3\":1}": ErrUTF8, `"\ud800"`: ErrUTF8, `"\ud800\u0041"`: ErrUTF8, `"\udc00"`: ErrUTF8, "\"\\n\xff\"": ErrUTF8,
		strings.Repeat("[", 300) + strings.Repeat("]", 300): ErrDepth,
	} {
		_, err := Canonical([]byte(in))
		var e *mx.Error
		if !errors.Is(err, want) || !errors.As(err, &e) {
			t.Errorf("%.40q: %v, want %v", in, err, want)
		}
	}
}

func TestFields(t *testing.T) {
	raw := []byte(`{"a":{"b.c":[1,{"d":"x\"}"}],"e\n":"\u0041"},"n":-7,"s":"t","l":["x","y"]}`)
	if s := FieldString(raw, "s"); s != "t" {
		t.Errorf("%q", s)
	}
	if v := Path(raw, "a", "b.c"); string(v) != `[1,{"d":"x\"}"}]` {
		t.Errorf("%s", v)
	}
	if s := FieldString(Field(raw, "a"), "e\n"); s != "A" {
		t.Errorf("%q", s)
	}
	if Path(raw, "a", "x", "y") != nil || Field(raw, "zz") != nil || Field([]byte(`[1]`), "a") != nil || Field(nil, "a") != nil {
		t.Error("found what is not there")
	}
	if n, ok := Int(Field(raw, "n")); n != -7 || !ok {
		t.Errorf("%d %v", n, ok)
	}
	if l, ok := Strings(Field(raw, "l")); !ok || !reflect.DeepEqual(l, []string{"x", "y"}) {
		t.Errorf("%v %v", l, ok)
	}
	if _, ok := Strings([]byte(`["x",1]`)); ok {
		t.Error("a number is a string")
	}
	for _, bad := range []string{`{"a`, `{"a"`, `{"a":`, `{"a":"`, `{"a":"\`, `{"a":[`, `{"a":{`, `{"a":{"b"`, `{"a":1,`, `{`, `{"a":[1`} {
		if err := Members([]byte(bad), func(string, []byte) error { return nil }); err == nil {
			t.Errorf("%s has members", bad)
		}
	}
}

func TestAppendString(t *testing.T) {
	for _, s := range []string{"", "plain", "q\"b\\ n\n\x00\x1f é 日 😀 \u2028 <>&", "\x7f"} {
		got := AppendString(nil, s)
		want, err := Canonical(got)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q is written %s, canonical %s %v", s, got, want, err)
		}
		if back, ok := String(got); !ok || back != s {
			t.Errorf("%q comes back as %q", s, back)
		}
	}
	if got := AppendString(nil, "a\xffb"); string(got) != "\"a\ufffdb\"" {
		t.Errorf("%q", got)
	}
}

// FuzzCanonical: what is canonical stays as it is, and means the same as before.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":1,"a":[true,null,"\u00e9\n"]}`, `{"a":1,"a":2}`, `"\ud83d\ude00"`, `-0`, `[[[]]]`, `{"":{}}`, "\"\xff\"", `1e5`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Canonical(raw)
		Members(raw, func(k string, v []byte) error { FieldString(v, "x"); return nil })
		Elements(raw, func(v []byte) error { String(v); Int(v); return nil })
		if err != nil {
			if json.Valid(raw) && errors.Is(err, ErrSyntax) {
				t.Errorf("valid JSON is refused: %q: %v", raw, err)
			}
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("accepted: %q", raw)
		}
		again, err := Canonical(c)
		if err != nil || !bytes.Equal(c, again) {
			t.Errorf("%q becomes %q becomes %q %v", raw, c, again, err)
		}
		var a, b any
		if json.Unmarshal(raw, &a) != nil || json.Unmarshal(c, &b) != nil || !reflect.DeepEqual(normal(a), normal(b)) {
			t.Errorf("%q and %q are not the same", raw, c)
		}
		if IsObject(c) {
			var m map[string]json.RawMessage
			json.Unmarshal(c, &m)
			for k, v := range m {
				if !bytes.Equal(Field(c, k), v) {
					t.Errorf("%q: field %q is %q", c, k, Field(c, k))
				}
			}
		}
	})
}

// normal makes -0 the same as 0.
func normal(v any) any {
	switch v := v.(type) {
	case float64:
		return v + 0
	case []any:
		for i := range v {
			v[i] = normal(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = normal(v[k])
		}
	}
	return v
}
