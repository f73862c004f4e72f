package luks

import (
	"crypto/aes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"

	"crypto/pbkdf2"

	"golang.org/x/crypto/xts"
)

// WipeToken is the type of the token that names areas which still have to be
// overwritten. It is there only between two writes of the header.
const WipeToken = "holdfast-wipe"

type span struct {
	Offset int64 `json:"offset,string"`
	Size   int64 `json:"size,string"`
}

func (s span) overlaps(t span) bool { return s.Offset < t.Offset+t.Size && t.Offset < s.Offset+s.Size }

// NewSlot is a key slot to be added.
type NewSlot struct {
	Pass []byte
	KDF  KDF // its salt is made anew
	// Token stands beside the slot; none with an empty type.
	Token Token
}

// Format makes a header on a partition with a new volume key, which is returned,
// and its first slot. What was there is lost. sectorSize is that of the data.
func Format(d Device, uuid, label, subsystem string, sectorSize int, slot NewSlot, tokens ...Token) (*Header, []byte, error) {
	key := random(KeySize)
	h := &Header{UUID: uuid, Label: label, Subsystem: subsystem, size: headerSize,
		keyslots: map[string]json.RawMessage{}, tokens: map[string]json.RawMessage{},
		segments: map[string]json.RawMessage{}, digests: map[string]json.RawMessage{}}
	var err error
	set := func(to *json.RawMessage, v any) {
		raw, e := json.Marshal(v)
		*to, err = raw, errors.Join(err, e)
	}
	var raw json.RawMessage
	set(&raw, segment{Type: "crypt", Offset: DataOffset, Size: "dynamic", Encryption: cipher, SectorSize: sectorSize})
	h.segments["0"] = raw
	set(&h.config, config{JSONSize: jsonSize, KeyslotsSize: DataOffset - 2*headerSize})
	// A random key of 512 bits cannot be guessed, whatever a guess costs.
	dig := digest{Type: "pbkdf2", Keyslots: []string{}, Segments: []string{"0"}, Hash: "sha256", Iterations: minIterations, Salt: random(32)}
	if err == nil {
		dig.Digest, err = pbkdf2.Key(sha256.New, string(key), dig.Salt, dig.Iterations, sha256.Size)
	}
	set(&raw, dig)
	h.digests["0"] = raw
	if err != nil {
		return nil, nil, err
	}
	return h, key, h.Change(d, key, Change{Add: []NewSlot{slot}, Set: tokens})
}

// Change is what happens to a header in one step.
type Change struct {
	Add    []NewSlot
	Remove []string // key slots; tokens that are about them alone go too
	Set    []Token  // tokens without key slots; they replace those of their type
}

// Change changes the header and returns when all of it is on the disk, and what is
// left of removed slots overwritten. key is the volume key. A stop in between
// leaves the header before or the header after; FinishWipe overwrites the rest.
// After an error the header must be read again. Errors: ErrNoSlot, ErrFull, of the
// device.
func (h *Header) Change(d Device, key []byte, c Change) error {
	var wipe []span
	for _, name := range c.Remove {
		var s keyslot
		raw, ok := h.keyslots[name]
		if !ok {
			return fmt.Errorf("%w: %s", ErrNoSlot, name)
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		wipe = append(wipe, span{s.Area.Offset, s.Area.Size})
	}
	// The new areas, beside all that are in use, also by the slots that go.
	var added []string
	for _, n := range c.Add {
		name, err := h.writeSlot(d, key, n)
		if err != nil {
			return err
		}
		added = append(added, name)
	}
	if len(c.Add) > 0 {
		if err := d.Sync(); err != nil {
			return err
		}
	}
	if err := h.bind(added, c.Remove); err != nil {
		return err
	}
	for name, raw := range h.tokens {
		t, err := parseToken(raw)
		if err != nil {
			return err
		}
		if len(t.Keyslots) == 0 {
			if slices.ContainsFunc(c.Set, func(s Token) bool { return s.Type == t.Type }) {
				delete(h.tokens, name)
			}
			continue
		}
		t.Keyslots = slices.DeleteFunc(t.Keyslots, func(s string) bool { return slices.Contains(c.Remove, s) })
		if len(t.Keyslots) == 0 {
			delete(h.tokens, name)
		} else {
			h.tokens[name] = t.marshal()
		}
	}
	for _, name := range c.Remove {
		delete(h.keyslots, name)
	}
	for i, n := range c.Add {
		if n.Token.Type != "" {
			t := n.Token
			t.Keyslots = []string{added[i]}
			if err := h.addToken(t); err != nil {
				return err
			}
		}
	}
	for _, t := range c.Set {
		t.Keyslots = nil
		if err := h.addToken(t); err != nil {
			return err
		}
	}
	if len(wipe) > 0 {
		if err := h.addToken(NewToken(WipeToken, map[string]any{"areas": append(wipe, h.pending()...)})); err != nil {
			return err
		}
	}
	if err := h.write(d); err != nil {
		return err
	}
	return h.FinishWipe(d)
}

func free(m map[string]json.RawMessage) (string, error) {
	for i := range maxSlots {
		if name := strconv.Itoa(i); m[name] == nil {
			return name, nil
		}
	}
	return "", ErrFull
}

func (h *Header) addToken(t Token) error {
	name, err := free(h.tokens)
	if err == nil {
		h.tokens[name] = t.marshal()
	}
	return err
}

// bind says in the digest of the data whose key the slots give.
func (h *Header) bind(add, remove []string) error {
	for name := range h.digests {
		d, err := h.digest(name)
		if err != nil {
			return err
		}
		n := slices.DeleteFunc(d.Keyslots, func(s string) bool { return slices.Contains(remove, s) })
		if slices.Contains(d.Segments, "0") {
			n = append(n, add...)
		}
		if n == nil {
			n = []string{}
		}
		// Only this field is written, so that others stay as they are.
		var all map[string]json.RawMessage
		if err := json.Unmarshal(h.digests[name], &all); err != nil {
			return err
		}
		if all["keyslots"], err = json.Marshal(n); err != nil {
			return err
		}
		if h.digests[name], err = json.Marshal(all); err != nil {
			return err
		}
	}
	return nil
}

// pending gives the areas that are still to be overwritten.
func (h *Header) pending() (list []span) {
	for _, t := range h.Tokens(WipeToken) {
		var areas []span
		t.Field("areas", &areas)
		list = append(list, areas...)
	}
	return list
}

// used gives the areas that key slots have.
func (h *Header) used() (list []span) {
	for _, raw := range h.keyslots {
		var s struct{ Area area }
		if json.Unmarshal(raw, &s) == nil {
			list = append(list, span{s.Area.Offset, s.Area.Size})
		}
	}
	return list
}

// Unwiped reports whether areas of removed slots are still to be overwritten.
func (h *Header) Unwiped() bool { return len(h.Tokens(WipeToken)) > 0 }

// FinishWipe overwrites what removed slots left. After an error the header must be
// read again.
func (h *Header) FinishWipe(d Device) error {
	if !h.Unwiped() {
		return nil
	}
	var c config
	if err := json.Unmarshal(h.config, &c); err != nil {
		return err
	}
	used := h.used()
	for _, s := range h.pending() {
		// Somebody else may have put a slot there meanwhile.
		if !h.inside(area{Offset: s.Offset, Size: s.Size}, c) || slices.ContainsFunc(used, s.overlaps) {
			continue
		}
		if _, err := d.WriteAt(random(int(s.Size)), s.Offset); err != nil {
			return err
		}
	}
	if err := d.Sync(); err != nil {
		return err
	}
	for name, raw := range h.tokens {
		if t, err := parseToken(raw); err == nil && t.Type == WipeToken {
			delete(h.tokens, name)
		}
	}
	return h.write(d)
}

// place finds room for an area.
func (h *Header) place(size int64) (int64, error) {
	var c config
	if err := json.Unmarshal(h.config, &c); err != nil {
		return 0, err
	}
	taken := append(h.used(), h.pending()...)
	for at := 2 * h.size; at+size <= 2*h.size+c.KeyslotsSize; {
		i := slices.IndexFunc(taken, span{at, size}.overlaps)
		if i < 0 {
			return at, nil
		}
		at = (taken[i].Offset + taken[i].Size + areaAlign - 1) / areaAlign * areaAlign
	}
	return 0, ErrFull
}

// writeSlot writes an area and puts the slot into the header in memory.
func (h *Header) writeSlot(d Device, key []byte, n NewSlot) (string, error) {
	name, err := free(h.keyslots)
	if err != nil {
		return "", err
	}
	length := int64(len(key) * stripes)
	size := (length + areaAlign - 1) / areaAlign * areaAlign
	offset, err := h.place(size)
	if err != nil {
		return "", err
	}
	n.KDF.Salt = random(32)
	s := keyslot{Type: "luks2", KeySize: len(key), AF: splitter{"luks1", stripes, "sha256"},
		Area: area{"raw", offset, size, cipher, KeySize}, KDF: n.KDF}
	own, err := n.KDF.derive(n.Pass, KeySize)
	if err != nil {
		return "", err
	}
	defer clear(own)
	material := split(key, stripes, sha256.New)
	if err := crypt(own, material, true); err != nil {
		return "", err
	}
	if _, err := d.WriteAt(material, offset); err != nil {
		return "", err
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	h.keyslots[name] = raw
	return name, nil
}

// Open finds the volume key with a passphrase, trying the named slots or, without
// any, all. Errors: ErrPass, ErrMemory, ErrNewer, of the device.
func (h *Header) Open(d Device, pass []byte, slots ...string) (key []byte, slot string, err error) {
	if len(slots) == 0 {
		slots = h.Slots()
	}
	var why error
	for _, name := range slots {
		key, err := h.openSlot(d, pass, name)
		if err == nil {
			return key, name, nil
		}
		if !errors.Is(err, ErrPass) && !errors.Is(err, ErrMemory) && !errors.Is(err, ErrNewer) {
			return nil, "", err
		}
		// A slot that was not tried matters more than one that did not fit.
		if why == nil || !errors.Is(err, ErrPass) {
			why = err
		}
	}
	if why == nil {
		why = ErrPass
	}
	return nil, "", why
}

func (h *Header) openSlot(d Device, pass []byte, name string) ([]byte, error) {
	raw, ok := h.keyslots[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNoSlot, name)
	}
	var s keyslot
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%w: key slot %s cannot be read (%w)", ErrNewer, name, err)
	}
	newSum := newHash(s.AF.Hash)
	if s.Type != "luks2" || s.KeySize != KeySize || s.AF.Type != "luks1" || s.AF.Stripes != stripes || newSum == nil ||
		s.Area.Type != "raw" || s.Area.Encryption != cipher || s.Area.KeySize != 32 && s.Area.KeySize != 64 ||
		s.Area.Size < int64(s.KeySize*s.AF.Stripes) {
		return nil, fmt.Errorf("%w: key slot %s is of another kind", ErrNewer, name)
	}
	own, err := s.KDF.derive(pass, s.Area.KeySize)
	if err != nil {
		return nil, err
	}
	defer clear(own)
	material := make([]byte, s.KeySize*s.AF.Stripes)
	if _, err := d.ReadAt(material, s.Area.Offset); err != nil {
		return nil, err
	}
	if err := crypt(own, material, false); err != nil {
		return nil, err
	}
	key := merge(material, s.KeySize, newSum)
	clear(material)
	for _, id := range h.names(h.digests) {
		dig, err := h.digest(id)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(dig.Keyslots, name) || !slices.Contains(dig.Segments, "0") {
			continue
		}
		sum, err := pbkdf2.Key(newHash(dig.Hash), string(key), dig.Salt, dig.Iterations, len(dig.Digest))
		if err != nil {
			return nil, err
		}
		if subtle.ConstantTimeCompare(sum, dig.Digest) == 1 {
			return key, nil
		}
	}
	clear(key)
	return nil, ErrPass
}

// crypt encrypts or decrypts an area in place, in sectors of 512 bytes counted from
// its beginning.
func crypt(key, b []byte, encrypt bool) error {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return err
	}
	for i := 0; i+512 <= len(b); i += 512 {
		if s := b[i : i+512]; encrypt {
			c.Encrypt(s, s, uint64(i/512))
		} else {
			c.Decrypt(s, s, uint64(i/512))
		}
	}
	return nil
}

// split spreads a key over many blocks so that losing any of them loses the key.
func split(key []byte, n int, newSum func() hash.Hash) []byte {
	out := random(len(key) * n)
	last := out[len(key)*(n-1):]
	state := make([]byte, len(key))
	for i := range n - 1 {
		subtle.XORBytes(state, state, out[len(key)*i:])
		diffuse(state, newSum)
	}
	subtle.XORBytes(last, state, key)
	return out
}

// merge gives the key back.
func merge(b []byte, size int, newSum func() hash.Hash) []byte {
	state := make([]byte, size)
	n := len(b) / size
	for i := range n - 1 {
		subtle.XORBytes(state, state, b[size*i:])
		diffuse(state, newSum)
	}
	subtle.XORBytes(state, state, b[size*(n-1):])
	return state
}

func diffuse(b []byte, newSum func() hash.Hash) {
	sum := newSum()
	for i := 0; i*sum.Size() < len(b); i++ {
		part := b[i*sum.Size() : min((i+1)*sum.Size(), len(b))]
		sum.Reset()
		sum.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		sum.Write(part)
		copy(part, sum.Sum(nil))
	}
}
