// Package luks reads and writes LUKS2 headers: the standard by which an encrypted
// partition says how its key is found. cryptsetup opens what this package writes.
//
// Invariants: there are two copies of the header, and at every moment one of them
// is whole, whatever the write was that stopped; a key slot's area is on the disk
// before a header names it, and no header names it any more before it is
// overwritten; what the header says and this package does not know is kept as it
// is, or refused where it would have to be understood. Everything that is read has
// a bound before anything is allocated for it.
//
// Source: LUKS2 On-Disk Format Specification, version 1.1.
package luks

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Device is a partition.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when all that was written is on the disk.
	Sync() error
}

// Errors of reading a header.
var (
	ErrNoHeader = errors.New("there is no LUKS header")
	ErrDamaged  = errors.New("both copies of the encryption header are damaged: without a backup of the header the data cannot be opened")
	ErrNewer    = errors.New("the encryption header uses something that this version does not know: start the newest version, or finish what was begun with cryptsetup")
	ErrPass     = errors.New("no key slot opens with this")
	ErrMemory   = errors.New("this machine has too little memory for the key slot's own parameters")
	ErrNoSlot   = errors.New("the encryption header has no such key slot")
	ErrFull     = errors.New("the encryption header has no room for another key slot: remove one with cryptsetup luksKillSlot")
)

// Sizes of what Format makes.
const (
	headerSize = 16 << 10
	jsonSize   = headerSize - binSize
	// DataOffset is where the encrypted data begins.
	DataOffset = 16 << 20
	binSize    = 4096
	// Bounds of the specification.
	maxHeader = 4 << 20
	maxSlots  = 32
	areaAlign = 4096
	stripes   = 4000
	// KeySize is that of the volume key: AES-256 in XTS mode.
	KeySize = 64
	cipher  = "aes-xts-plain64"
)

// Header is a header as it stands on a device.
type Header struct {
	UUID, Label, Subsystem string

	size     int64
	seq      uint64
	keyslots map[string]json.RawMessage
	tokens   map[string]json.RawMessage
	segments map[string]json.RawMessage
	digests  map[string]json.RawMessage
	config   json.RawMessage
	salts    [2][]byte
}

type area struct {
	Type       string `json:"type"`
	Offset     int64  `json:"offset,string"`
	Size       int64  `json:"size,string"`
	Encryption string `json:"encryption"`
	KeySize    int    `json:"key_size"`
}

type splitter struct {
	Type    string `json:"type"`
	Stripes int    `json:"stripes"`
	Hash    string `json:"hash"`
}

type keyslot struct {
	Type     string   `json:"type"`
	KeySize  int      `json:"key_size"`
	AF       splitter `json:"af"`
	Area     area     `json:"area"`
	KDF      KDF      `json:"kdf"`
	Priority *int     `json:"priority,omitempty"`
}

type segment struct {
	Type       string   `json:"type"`
	Offset     int64    `json:"offset,string"`
	Size       string   `json:"size"`
	IVTweak    uint64   `json:"iv_tweak,string"`
	Encryption string   `json:"encryption"`
	SectorSize int      `json:"sector_size"`
	Flags      []string `json:"flags,omitempty"`
	Integrity  any      `json:"integrity,omitempty"`
}

type digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

type config struct {
	JSONSize     int64    `json:"json_size,string"`
	KeyslotsSize int64    `json:"keyslots_size,string"`
	Flags        []string `json:"flags,omitempty"`
	Requirements any      `json:"requirements,omitempty"`
}

// Token is a note in the header beside key slots.
type Token struct {
	Type string
	// Keyslots are the slots that it is about.
	Keyslots []string
	// Fields are its other fields.
	Fields map[string]json.RawMessage
}

// Field reads a field of a token; false where it is not there or of another type.
func (t *Token) Field(name string, v any) bool {
	raw, ok := t.Fields[name]
	return ok && json.Unmarshal(raw, v) == nil
}

// NewToken makes a token; its slots are those it is added with.
func NewToken(kind string, fields map[string]any) Token {
	t := Token{Type: kind, Fields: map[string]json.RawMessage{}}
	for k, v := range fields {
		raw, err := json.Marshal(v)
		if err != nil {
			panic("luks: " + err.Error())
		}
		t.Fields[k] = raw
	}
	return t
}

func (t *Token) marshal() json.RawMessage {
	m := maps.Clone(t.Fields)
	if m == nil {
		m = map[string]json.RawMessage{}
	}
	m["type"], _ = json.Marshal(t.Type)
	slots := t.Keyslots
	if slots == nil {
		slots = []string{}
	}
	m["keyslots"], _ = json.Marshal(slots)
	out, _ := json.Marshal(m)
	return out
}

func parseToken(raw json.RawMessage) (t Token, err error) {
	if err := json.Unmarshal(raw, &t.Fields); err != nil {
		return t, err
	}
	if !t.Field("type", &t.Type) || !t.Field("keyslots", &t.Keyslots) {
		return t, errors.New("a token has no type or no list of key slots")
	}
	delete(t.Fields, "type")
	delete(t.Fields, "keyslots")
	return t, nil
}

// newHash gives the hash of that name, nil where it is not known.
func newHash(name string) func() hash.Hash {
	switch name {
	case "sha256":
		return sha256.New
	case "sha512":
		return sha512.New
	}
	return nil
}

// Read reads the header of a partition of size bytes: the newer of the two copies
// that are whole. Where the other one is not the same, Read writes it again, so
// that there are two before anything changes.
// Errors: ErrNoHeader, ErrDamaged, ErrNewer, of the device.
func Read(d Device, size int64) (*Header, error) {
	h, bad, err := read(d, size)
	if err != nil || bad < 0 {
		return h, err
	}
	body, err := h.marshal()
	if err != nil {
		return nil, err
	}
	return h, h.writeCopy(d, bad, body)
}

// ReadOnly is Read without the repair.
func ReadOnly(d io.ReaderAt, size int64) (*Header, error) {
	h, _, err := read(d, size)
	return h, err
}

// read also tells which copy is not as it should be, -1 for none.
func read(d io.ReaderAt, size int64) (*Header, int, error) {
	first, err := readCopy(d, size, 0)
	if errors.Is(err, errDevice) {
		return nil, 0, err
	}
	var second *Header
	var secondErr error
	if first != nil {
		second, secondErr = readCopy(d, size, first.size)
	} else {
		// The second one is where the first ends, whose size is not known now.
		for offset := int64(headerSize); offset <= maxHeader && second == nil; offset *= 2 {
			var e error
			second, e = readCopy(d, size, offset)
			if secondErr == nil || errors.Is(secondErr, ErrNoHeader) {
				secondErr = e
			}
		}
	}
	switch {
	case errors.Is(secondErr, errDevice):
		return nil, 0, secondErr
	case first == nil && second == nil:
		for _, e := range []error{err, secondErr} {
			if !errors.Is(e, ErrNoHeader) {
				return nil, 0, e
			}
		}
		return nil, 0, ErrNoHeader
	case first == nil:
		return second, 0, second.check(size)
	case second == nil:
		return first, 1, first.check(size)
	}
	first.salts[1] = second.salts[1]
	second.salts[0] = first.salts[0]
	switch {
	case first.seq == second.seq:
		return first, -1, first.check(size)
	case first.seq > second.seq:
		return first, 1, first.check(size)
	}
	return second, 0, second.check(size)
}

var errDevice = errors.New("the disk cannot be read")

// readCopy reads the copy at offset: the first at 0, the second elsewhere.
func readCopy(d io.ReaderAt, size, offset int64) (*Header, error) {
	if offset+binSize > size {
		return nil, ErrNoHeader
	}
	b := make([]byte, binSize)
	if _, err := d.ReadAt(b, offset); err != nil {
		return nil, fmt.Errorf("%w: %w", errDevice, err)
	}
	which, magic := 0, "LUKS\xba\xbe"
	if offset > 0 {
		which, magic = 1, "SKUL\xba\xbe"
	}
	if string(b[:6]) != magic {
		return nil, ErrNoHeader
	}
	be := binary.BigEndian
	switch version := be.Uint16(b[6:]); {
	case version > 2:
		return nil, fmt.Errorf("%w (format version %d)", ErrNewer, version)
	case version < 2:
		return nil, ErrNoHeader // LUKS1: not ours in any case
	}
	total := be.Uint64(b[8:])
	if total < headerSize || total > maxHeader || total%4096 != 0 || uint64(size) < total*2 ||
		be.Uint64(b[256:]) != uint64(offset) || offset > 0 && total != uint64(offset) {
		return nil, ErrDamaged
	}
	alg := text(b[72:104])
	newSum := newHash(alg)
	if newSum == nil {
		return nil, fmt.Errorf("%w (checksum %q)", ErrNewer, alg)
	}
	all := make([]byte, total)
	if _, err := d.ReadAt(all, offset); err != nil {
		return nil, fmt.Errorf("%w: %w", errDevice, err)
	}
	sum := newSum()
	got := bytes.Clone(all[448 : 448+sum.Size()])
	clear(all[448:512])
	sum.Write(all)
	if !bytes.Equal(sum.Sum(nil), got) {
		return nil, ErrDamaged
	}
	h := &Header{size: int64(total), seq: be.Uint64(b[16:]), Label: text(b[24:72]), UUID: text(b[168:208]), Subsystem: text(b[208:256])}
	h.salts[which] = bytes.Clone(b[104:168])
	body := all[binSize:]
	if i := bytes.IndexByte(body, 0); i >= 0 {
		body = body[:i]
	}
	var j struct {
		Keyslots map[string]json.RawMessage `json:"keyslots"`
		Tokens   map[string]json.RawMessage `json:"tokens"`
		Segments map[string]json.RawMessage `json:"segments"`
		Digests  map[string]json.RawMessage `json:"digests"`
		Config   json.RawMessage            `json:"config"`
	}
	if err := json.Unmarshal(body, &j); err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrDamaged, err)
	}
	h.keyslots, h.tokens, h.segments, h.digests, h.config = j.Keyslots, j.Tokens, j.Segments, j.Digests, j.Config
	return h, nil
}

// text is a string with a zero behind it.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// check refuses what this package would misunderstand. The checksum was right, so
// whoever wrote it meant it.
func (h *Header) check(size int64) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrNewer}, args...)...)
	}
	var c config
	if err := json.Unmarshal(h.config, &c); err != nil {
		return bad("its configuration cannot be read (%w)", err)
	}
	if c.Requirements != nil {
		return bad("it has requirements: %.200v", c.Requirements)
	}
	if c.JSONSize != h.size-binSize || c.KeyslotsSize < 0 || c.KeyslotsSize > size || 2*h.size+c.KeyslotsSize > size {
		return bad("its areas do not fit")
	}
	if len(h.keyslots) > maxSlots || len(h.tokens) > maxSlots || len(h.segments) != 1 || len(h.digests) > 8 {
		return bad("it has %d key slots, %d segments and %d digests", len(h.keyslots), len(h.segments), len(h.digests))
	}
	for name, raw := range h.keyslots {
		if !numbered(name) {
			return bad("a key slot is called %.20q", name)
		}
		// Of any kind of slot the place must be known, so as not to write there.
		var s struct{ Area area }
		if err := json.Unmarshal(raw, &s); err != nil {
			return bad("key slot %s cannot be read (%w)", name, err)
		}
		if !h.inside(s.Area, c) {
			return bad("key slot %s is not in its area", name)
		}
	}
	for name, raw := range h.tokens {
		t, err := parseToken(raw)
		if err != nil || !numbered(name) {
			return bad("token %.20q cannot be read", name)
		}
		for _, s := range t.Keyslots {
			if h.keyslots[s] == nil {
				return bad("token %s names key slot %.20q, which is not there", name, s)
			}
		}
	}
	s, err := h.segment()
	if err != nil {
		return err
	}
	if s.Offset < 2*h.size+c.KeyslotsSize || s.Offset > size {
		return bad("the data overlaps the header")
	}
	for name := range h.digests {
		if _, err := h.digest(name); err != nil || !numbered(name) {
			return bad("digest %.20q cannot be read", name)
		}
	}
	return nil
}

func numbered(name string) bool {
	n, err := strconv.Atoi(name)
	return err == nil && n >= 0 && n < maxSlots && strconv.Itoa(n) == name
}

func (h *Header) inside(a area, c config) bool {
	return a.Offset >= 2*h.size && a.Size > 0 && a.Size <= c.KeyslotsSize && a.Offset <= 2*h.size+c.KeyslotsSize-a.Size
}

// segment gives the only one.
func (h *Header) segment() (s segment, err error) {
	raw, ok := h.segments["0"]
	if !ok {
		return s, fmt.Errorf("%w: it has no segment 0", ErrNewer)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("%w: its segment cannot be read (%w)", ErrNewer, err)
	}
	if s.Type != "crypt" || s.Integrity != nil || len(s.Flags) > 0 || s.Size != "dynamic" || s.Offset%4096 != 0 || s.Offset < 0 ||
		s.Encryption != cipher || s.IVTweak != 0 || s.SectorSize < 512 || s.SectorSize > 4096 || s.SectorSize&(s.SectorSize-1) != 0 {
		return s, fmt.Errorf("%w: its segment is %.300s", ErrNewer, raw)
	}
	return s, nil
}

func (h *Header) digest(name string) (d digest, err error) {
	if err := json.Unmarshal(h.digests[name], &d); err != nil {
		return d, err
	}
	if d.Type != "pbkdf2" || newHash(d.Hash) == nil || d.Iterations < 1 || d.Iterations > maxIterations ||
		len(d.Salt) == 0 || len(d.Digest) == 0 || len(d.Digest) > 64 {
		return d, fmt.Errorf("%w: digest %s", ErrNewer, name)
	}
	return d, nil
}

// Data tells where the data is: its offset in bytes, and the size of the sectors
// that are encrypted together.
func (h *Header) Data() (offset int64, sectorSize int) {
	s, err := h.segment()
	if err != nil {
		panic("luks: a header that was not checked: " + err.Error())
	}
	return s.Offset, s.SectorSize
}

// Discards reports whether the header allows that unused blocks are told to the
// disk (cryptsetup --allow-discards --persistent).
func (h *Header) Discards() bool {
	var c config
	json.Unmarshal(h.config, &c)
	return slices.Contains(c.Flags, "allow-discards")
}

// Tokens gives the tokens of one type, in order.
func (h *Header) Tokens(kind string) []Token {
	var list []Token
	for _, name := range h.names(h.tokens) {
		if t, err := parseToken(h.tokens[name]); err == nil && t.Type == kind {
			list = append(list, t)
		}
	}
	return list
}

// Slots gives the names of the key slots, in order.
func (h *Header) Slots() []string { return h.names(h.keyslots) }

func (h *Header) names(m map[string]json.RawMessage) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		x, _ := strconv.Atoi(a)
		y, _ := strconv.Atoi(b)
		return x - y
	})
}

// marshal makes the header's JSON.
func (h *Header) marshal() ([]byte, error) {
	return json.Marshal(map[string]any{
		"keyslots": h.keyslots, "tokens": h.tokens, "segments": h.segments, "digests": h.digests, "config": h.config,
	})
}

// write writes both copies as the next state, the second one first and on the disk
// before the other is touched. Both must be whole before, so a header whose write
// failed is read again before it is written again.
func (h *Header) write(d Device) error {
	body, err := h.marshal()
	if err != nil {
		return err
	}
	if int64(len(body)) >= h.size-binSize {
		return ErrFull
	}
	h.seq++
	for which := 1; which >= 0; which-- {
		if err := h.writeCopy(d, which, body); err != nil {
			return err
		}
	}
	return nil
}

func (h *Header) writeCopy(d Device, which int, body []byte) error {
	b := make([]byte, h.size)
	be := binary.BigEndian
	copy(b, [2]string{"LUKS\xba\xbe", "SKUL\xba\xbe"}[which])
	be.PutUint16(b[6:], 2)
	be.PutUint64(b[8:], uint64(h.size))
	be.PutUint64(b[16:], h.seq)
	copy(b[24:71], h.Label)
	copy(b[72:103], "sha256")
	if len(h.salts[which]) == 0 {
		h.salts[which] = random(64)
	}
	copy(b[104:168], h.salts[which])
	copy(b[168:207], h.UUID)
	copy(b[208:255], h.Subsystem)
	be.PutUint64(b[256:], uint64(which)*uint64(h.size))
	copy(b[binSize:], body)
	sum := sha256.Sum256(b)
	copy(b[448:], sum[:])
	if _, err := d.WriteAt(b, int64(which)*h.size); err != nil {
		return err
	}
	return d.Sync()
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
