// Package uki writes and reads unified kernel images, signs UEFI programs for
// Secure Boot, and writes the variables by which a machine is told to trust the
// signer.
//
// Invariants: the same input gives the same bytes, a signature included (RSA with
// PKCS #1 v1.5, no time in it); nothing of a UEFI program that is read is believed
// before its bounds were checked; a program that is signed hashes as firmware
// hashes it, since nothing stands outside its sections.
package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrFormat means that something is not a UEFI program as this package knows them.
var ErrFormat = errors.New("uki: this is not a 64-bit UEFI program")

func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Section is a part of a UEFI program.
type Section struct {
	Name string // at most eight bytes
	Data []byte
}

// The layout of the headers of PE32+.
// Source: PE Format, "COFF File Header" and "Optional Header (Image Only)".
const (
	coffSize    = 24 // with the signature before it
	sectionSize = 40
	magic64     = 0x20b

	offSections    = 6  // in the COFF header
	offSymbols     = 12 // pointer to and number of symbols
	offOptionalLen = 20

	offSectionAlign = 32 // in the optional header
	offFileAlign    = 36
	offImageSize    = 56
	offHeadersSize  = 60
	offCheckSum     = 64
	offDirectories  = 108 // their number; each has eight bytes
	dirCertificates = 4

	readOnlyData = 0x40000040 // initialised data that is read
	maxSections  = 96
)

// image is the parsed head of a UEFI program.
type image struct {
	raw      []byte
	coff     int // offset of "PE\0\0"
	optional int
	table    int // offset of the section headers
	sections []header
}

type header struct {
	name                                       string
	virtualSize, virtualAddr, rawSize, rawAddr uint32
}

func (h header) rawEnd() int { return int(h.rawAddr) + int(h.rawSize) }

func u16(b []byte, at int) int    { return int(binary.LittleEndian.Uint16(b[at:])) }
func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }

func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }

func align[T int | uint32](n, to T) T { return (n + to - 1) / to * to }

// parse reads the head of a UEFI program. Errors: ErrFormat.
func parse(b []byte) (*image, error) {
	if len(b) < 64 || string(b[:2]) != "MZ" {
		return nil, formatError("it does not begin with MZ")
	}
	p := &image{raw: b, coff: int(u32(b, 60))}
	if p.coff < 64 || p.coff > len(b)-coffSize || string(b[p.coff:p.coff+4]) != "PE\x00\x00" {
		return nil, formatError("it has no PE header")
	}
	size := u16(b, p.coff+offOptionalLen)
	p.optional = p.coff + coffSize
	p.table = p.optional + size
	n := u16(b, p.coff+offSections)
	switch {
	case size < offDirectories+4 || p.table > len(b):
		return nil, formatError("its optional header has %d bytes", size)
	case u16(b, p.optional) != magic64:
		return nil, formatError("it is not PE32+")
	case n == 0 || n > maxSections || p.table+n*sectionSize > len(b):
		return nil, formatError("it has %d sections", n)
	}
	if dirs := int(u32(b, p.optional+offDirectories)); dirs <= dirCertificates || dirs > 16 || offDirectories+4+8*dirs > size {
		return nil, formatError("it has %d data directories", dirs)
	}
	for _, at := range []int{offSectionAlign, offFileAlign} {
		if a := u32(b, p.optional+at); a == 0 || a&(a-1) != 0 || a > 1<<20 {
			return nil, formatError("an alignment of %d", a)
		}
	}
	for i := range n {
		s := b[p.table+i*sectionSize:]
		h := header{
			name:        strings.TrimRight(string(s[:8]), "\x00"),
			virtualSize: u32(s, 8), virtualAddr: u32(s, 12), rawSize: u32(s, 16), rawAddr: u32(s, 20),
		}
		if uint64(h.rawAddr)+uint64(h.rawSize) > uint64(len(b)) || uint64(h.virtualAddr)+uint64(h.virtualSize) > 1<<31 {
			return nil, formatError("section %q ends outside it", h.name)
		}
		p.sections = append(p.sections, h)
	}
	return p, nil
}

// certificates is where the certificate table's place and size stand.
func (p *image) certificates() int { return p.optional + offDirectories + 4 + 8*dirCertificates }

// Sections gives what a UEFI program contains. Errors: ErrFormat.
func Sections(b []byte) ([]Section, error) {
	p, err := parse(b)
	if err != nil {
		return nil, err
	}
	var out []Section
	for _, h := range p.sections {
		n := min(h.virtualSize, h.rawSize)
		out = append(out, Section{h.name, b[h.rawAddr : h.rawAddr+n]})
	}
	return out, nil
}

// Build joins systemd's stub and sections (".osrel", ".cmdline", ".linux",
// ".initrd", in this order by custom) to one UEFI program, without a signature.
// Errors: ErrFormat.
func Build(stub []byte, sections []Section) ([]byte, error) {
	p, err := parse(stub)
	if err != nil {
		return nil, err
	}
	// What stands after the last section (symbols, a signature) is not loaded and
	// would make hashes differ between those who count it and those who do not.
	end, first := 0, len(stub)
	var next uint32
	for _, h := range p.sections {
		end = max(end, h.rawEnd())
		if h.rawSize > 0 {
			first = min(first, int(h.rawAddr))
		}
		next = max(next, h.virtualAddr+h.virtualSize)
		if slices.ContainsFunc(sections, func(s Section) bool { return s.Name == h.name }) {
			return nil, formatError("the stub has a section %q already", h.name)
		}
	}
	n := len(p.sections) + len(sections)
	if room := (first - p.table) / sectionSize; n > room || n > maxSections {
		return nil, formatError("its headers have room for %d sections, not for %d", room, n)
	}
	// Each section begins on a page of its own, whatever the stub is content with.
	fileAlign, sectionAlign := int(u32(stub, p.optional+offFileAlign)), max(u32(stub, p.optional+offSectionAlign), 4096)
	total := align(end, fileAlign)
	for _, s := range sections {
		total += align(len(s.Data), fileAlign)
	}
	out := make([]byte, end, total)
	copy(out, stub)
	for i, s := range sections {
		if len(s.Name) > 8 || s.Name == "" || len(s.Data) == 0 || len(s.Data) > 1<<30 {
			return nil, formatError("section %q of %d bytes cannot be added", s.Name, len(s.Data))
		}
		out = append(out, make([]byte, align(len(out), fileAlign)-len(out))...)
		at := align(next, sectionAlign)
		h := out[p.table+(len(p.sections)+i)*sectionSize:][:sectionSize]
		clear(h)
		copy(h, s.Name)
		put32(h, 8, uint32(len(s.Data)))
		put32(h, 12, at)
		put32(h, 16, uint32(align(len(s.Data), fileAlign)))
		put32(h, 20, uint32(len(out)))
		put32(h, 36, readOnlyData)
		out = append(out, s.Data...)
		next = at + uint32(len(s.Data))
	}
	out = append(out, make([]byte, align(len(out), fileAlign)-len(out))...)
	binary.LittleEndian.PutUint16(out[p.coff+offSections:], uint16(n))
	put32(out, p.coff+offSymbols, 0)
	put32(out, p.coff+offSymbols+4, 0)
	put32(out, p.optional+offImageSize, align(next, u32(stub, p.optional+offSectionAlign)))
	put32(out, p.optional+offHeadersSize, uint32(align(p.table+n*sectionSize, fileAlign)))
	put32(out, p.optional+offCheckSum, 0)
	put32(out, p.certificates(), 0)
	put32(out, p.certificates()+4, 0)
	return out, nil
}
