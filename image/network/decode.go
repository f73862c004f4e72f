package network

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// maxDepth of nested lists and objects; a Config needs six.
const maxDepth = 16

// object is a JSON object with its keys in the order of the text.
type object struct {
	keys   []string
	values map[string]any
}

// decodeStrict reads text into the struct that into points to. encoding/json alone
// would take keys twice, or in another case, and does not say where a value stands.
func decodeStrict(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var d decoder
	tree, err := d.value(dec, "", 0)
	if err == nil {
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = &ConfigError{"", "there is more after the end of the configuration: remove it"}
		}
	}
	if err != nil {
		var c *ConfigError
		if errors.As(err, &c) {
			return ConfigErrors{c}
		}
		line := 1 + bytes.Count(text[:min(int(dec.InputOffset()), len(text))], []byte("\n"))
		return ConfigErrors{{"", fmt.Sprintf("near line %d the text is not JSON: %v", line, err)}}
	}
	d.set(tree, reflect.ValueOf(into).Elem(), "")
	if len(d.errs) > 0 {
		return d.errs
	}
	return nil
}

type decoder struct{ errs ConfigErrors }

func (d *decoder) bad(path, format string, args ...any) {
	d.errs = append(d.errs, &ConfigError{path, fmt.Sprintf(format, args...)})
}

func (d *decoder) value(dec *json.Decoder, path string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, &ConfigError{path, "lists and objects are nested too deep"}
	}
	t, err := dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		o := object{values: map[string]any{}}
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				return nil, err
			}
			key, ok := k.(string)
			if !ok {
				return nil, fmt.Errorf("%v in place of a key", k)
			}
			at := join(path, key)
			if _, twice := o.values[key]; twice {
				return nil, &ConfigError{at, "stands there twice: remove one"}
			}
			if o.values[key], err = d.value(dec, at, depth+1); err != nil {
				return nil, err
			}
			o.keys = append(o.keys, key)
		}
		_, err := dec.Token()
		return o, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := d.value(dec, fmt.Sprintf("%s[%d]", path, len(list)), depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	return t, nil
}

func join(path, key string) string {
	if len(key) > 40 {
		key = key[:40] + "…"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func (d *decoder) set(tree any, v reflect.Value, path string) {
	if v.Addr().Type().Implements(textUnmarshaler) {
		s, ok := tree.(string)
		if !ok {
			d.bad(path, "%s where a text was expected: put it in quotation marks", describe(tree))
			return
		}
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil || s == "" {
			what, example := "an address", "192.168.1.1"
			if strings.HasSuffix(v.Type().Name(), "Prefix") {
				what, example = "an address with the length of its network", "192.168.1.10/24"
			}
			d.bad(path, "%q is not %s, such as %q", s, what, example)
			v.SetZero()
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		s, ok := tree.(string)
		if !ok {
			d.bad(path, "%s where a text was expected: put it in quotation marks", describe(tree))
			return
		}
		v.SetString(s)
	case reflect.Bool:
		b, ok := tree.(bool)
		if !ok {
			d.bad(path, "%s where true or false was expected", describe(tree))
			return
		}
		v.SetBool(b)
	case reflect.Int:
		n, ok := tree.(json.Number)
		i, err := n.Int64()
		if !ok || err != nil || i < -1<<31 || i > 1<<31 {
			d.bad(path, "%s where a whole number was expected", describe(tree))
			return
		}
		v.SetInt(i)
	case reflect.Slice:
		list, ok := tree.([]any)
		if !ok {
			d.bad(path, "%s where a list was expected: put it in [ ]", describe(tree))
			return
		}
		if len(list) == 0 {
			return
		}
		s := reflect.MakeSlice(v.Type(), len(list), len(list))
		for i, x := range list {
			d.set(x, s.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		v.Set(s)
	case reflect.Struct:
		o, ok := tree.(object)
		if !ok {
			d.bad(path, "%s where an object was expected: put it in { }", describe(tree))
			return
		}
		var known []string
		fields := map[string]int{}
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			known = append(known, name)
			fields[name] = i
		}
		for _, key := range o.keys {
			i, ok := fields[key]
			if !ok {
				text := "there is no such key: remove it"
				if near := nearest(key, known); near != "" {
					text = fmt.Sprintf("there is no such key; do you mean %q?", near)
				} else {
					text += "; those there are: " + strings.Join(known, ", ")
				}
				d.bad(join(path, key), "%s", text)
				continue
			}
			d.set(o.values[key], v.Field(i), join(path, key))
		}
	default:
		panic("network: a configuration has no field of kind " + v.Kind().String())
	}
}

func describe(tree any) string {
	switch x := tree.(type) {
	case nil:
		return "null stands"
	case bool:
		return fmt.Sprintf("%v stands", x)
	case json.Number:
		s := x.String()
		if len(s) > 30 {
			s = s[:30] + "…"
		}
		return s + " stands"
	case string:
		if len(x) > 30 {
			x = x[:30] + "…"
		}
		return fmt.Sprintf("the text %q stands", x)
	case []any:
		return "a list stands"
	}
	return "an object stands"
}

// nearest is the word of the list that is most like s, "" when none is alike.
func nearest(s string, list []string) string {
	if s == "" || len(s) > 40 {
		return ""
	}
	best, at := "", 1+max(1, len(s)/2)
	for _, w := range list {
		if n := distance(strings.ToLower(s), strings.ToLower(w)); n < at {
			best, at = w, n
		}
	}
	return best
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(prev[j]+cost, prev[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
