package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// stub makes a small UEFI program with one section and room for more headers. It
// has something after its last section, as linkers leave there.
func stub() []byte {
	const head, table = 64, 64 + coffSize + 240
	b := make([]byte, 1024+512)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], head)
	copy(b[head:], "PE\x00\x00")
	le.PutUint16(b[head+4:], 0x8664)
	le.PutUint16(b[head+offSections:], 1)
	le.PutUint16(b[head+offOptionalLen:], 240)
	o := b[head+coffSize:]
	le.PutUint16(o, magic64)
	le.PutUint32(o[offSectionAlign:], 512)
	le.PutUint32(o[offFileAlign:], 512)
	le.PutUint32(o[offImageSize:], 0x4200)
	le.PutUint32(o[offHeadersSize:], 1024)
	le.PutUint32(o[offDirectories:], 16)
	s := b[table:]
	copy(s, ".text")
	le.PutUint32(s[8:], 0x150)
	le.PutUint32(s[12:], 0x4000)
	le.PutUint32(s[16:], 512)
	le.PutUint32(s[20:], 1024)
	copy(b[1024:], "code")
	return append(b, "symbols that are not loaded"...)
}

var parts = []Section{
	{".osrel", []byte("ID=holdfast\n")},
	{".cmdline", []byte("quiet")},
	{".linux", bytes.Repeat([]byte("kernel"), 3000)},
	{".initrd", bytes.Repeat([]byte{7}, 4097)},
}

func TestBuild(t *testing.T) {
	b, err := Build(stub(), parts)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := Build(stub(), parts)
	if !bytes.Equal(b, again) {
		t.Error("the second one differs")
	}
	if bytes.Contains(b, []byte("symbols")) {
		t.Error("what is not loaded is in it")
	}
	have, err := Sections(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != 5 {
		t.Fatalf("it has %d sections", len(have))
	}
	for i, s := range parts {
		if h := have[i+1]; h.Name != s.Name || !bytes.Equal(h.Data, s.Data) {
			t.Errorf("section %d is %s with %d bytes", i, h.Name, len(h.Data))
		}
	}
	// The standard library's reader sees the same.
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	last := f.Sections[0]
	for i, s := range f.Sections[1:] {
		data, err := s.Data()
		if err != nil || !bytes.Equal(data[:s.VirtualSize], parts[i].Data) {
			t.Errorf("%s: %d bytes, %v", s.Name, len(data), err)
		}
		if s.VirtualAddress%4096 != 0 || s.VirtualAddress < last.VirtualAddress+last.VirtualSize {
			t.Errorf("%s is at %#x, after %s at %#x with %#x", s.Name, s.VirtualAddress, last.Name, last.VirtualAddress, last.VirtualSize)
		}
		last = s
	}
	o := f.OptionalHeader.(*pe.OptionalHeader64)
	if o.SizeOfImage < last.VirtualAddress+last.VirtualSize || o.SizeOfImage%512 != 0 {
		t.Errorf("the image is %#x long", o.SizeOfImage)
	}
}

func TestBuildRefuses(t *testing.T) {
	many := make([]Section, 40)
	for i := range many {
		many[i] = Section{".s" + string(rune('A'+i)), []byte("x")}
	}
	for name, c := range map[string]struct {
		stub     []byte
		sections []Section
		says     string
	}{
		"not a program":   {[]byte(strings.Repeat("no", 100)), parts, "MZ"},
		"cut":             {stub()[:1200], parts, "ends outside"},
		"too many":        {stub(), many, "room"},
		"same name":       {stub(), []Section{{".text", []byte("x")}}, "already"},
		"name too long":   {stub(), []Section{{".commandline", []byte("x")}}, "cannot be added"},
		"nothing to hold": {stub(), []Section{{".linux", nil}}, "cannot be added"},
	} {
		_, err := Build(c.stub, c.sections)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzSections(f *testing.F) {
	whole, err := Build(stub(), parts)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(stub())
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Sections(b)
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		total := 0
		for _, s := range list {
			total += len(s.Data)
		}
		if total > maxSections*len(b) {
			t.Fatal("more was read than there is")
		}
	})
}
