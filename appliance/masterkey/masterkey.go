// Package masterkey keeps the appliance's master key, from which all keys come that seal
// secrets in the database: in a file of its own, as it is, or sealed under a passphrase or
// by the machine's TPM 2.0 chip.
//
// Invariants: the key itself never changes when the way it is kept does, so that no secret
// has to be sealed anew; a new file is whole, on the disk and tried before it takes the
// place of the old one, so that after a loss of power one of both is there and opens; a
// wrong passphrase changes nothing; a file's own numbers cannot make opening it costly
// without bound.
package masterkey

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"holdfast/appliance/tpm"
)

// Ways in which the key is kept.
const (
	Plain      = "file"       // as it is; whoever may read the file has it
	Passphrase = "passphrase" // somebody or something gives it at each start
	TPM        = "tpm"        // the chip gives it back, on this machine alone
)

// Errors.
var (
	// ErrWrong means that the passphrase is another one.
	ErrWrong = errors.New("this is not the passphrase of the master key")
	// ErrNeeded means that the key is sealed and nobody gave a passphrase.
	ErrNeeded = errors.New("the passphrase of the master key is needed, and none was given")
	// ErrChip means that the TPM chip did not give the key back, for the reason that the
	// same error has.
	ErrChip = errors.New("the master key is sealed by the TPM chip, which did not give it back; the recovery passphrase that holdfast masterkey tpm printed opens it")
	// ErrDamaged means that the file is none of a master key.
	ErrDamaged = errors.New("the file of the master key is damaged; put it back from a backup")
	// ErrWeak means that a passphrase is too short.
	ErrWeak = fmt.Errorf("a passphrase has %d characters at least; four or five words are good", minPassphrase)
)

const (
	keySize       = 32
	minPassphrase = 12
	maxPassphrase = 1024
	maxFile       = 64 << 10
)

// Options of Open.
type Options struct {
	// Ask gives the passphrase. It is asked again, with the error of the last, until it
	// returns an error itself. nil: nobody knows it.
	Ask func(last error) (string, error)
	// Chip opens the TPM chip.
	Chip func() (*tpm.TPM, error)
	// Memory is what argon2id takes, in KiB. 0: the standard. Only tests go below.
	Memory uint32
}

// Key is the master key of a running appliance. Its methods are safe for concurrent use.
type Key struct {
	path   string
	o      Options
	secret []byte

	mu     sync.Mutex
	kept   string
	unwell error // why the chip did not give it
}

// file is the key file where the key is sealed. A plain one is the 32 bytes.
type file struct {
	What    string `json:"what"`
	Version int    `json:"version"`
	Slots   []slot `json:"slots"`
}

const what = "holdfast master key"

// slot is one way to open the key.
type slot struct {
	Kind   string      `json:"kind"` // passphrase, tpm, recovery
	KDF    *kdf        `json:"kdf,omitempty"`
	Chip   *tpm.Sealed `json:"chip,omitempty"`
	Sealed []byte      `json:"sealed"` // the master key, by AES-256-GCM
}

const recovery = "recovery" // a passphrase that was made here and written down

// kdf is how a key comes from a passphrase: by argon2id.
type kdf struct {
	Passes  uint32 `json:"passes"`
	Memory  uint32 `json:"memory_kib"`
	Threads uint8  `json:"threads"`
	Salt    []byte `json:"salt"`
}

// Bounds of what a file may ask for, and what new ones do.
const (
	passes    = 3
	memory    = 64 << 10
	maxPasses = 64
	maxMemory = 1 << 20
)

func (k *kdf) valid() bool {
	return k != nil && k.Passes >= 1 && k.Passes <= maxPasses && k.Memory >= 8 && k.Memory <= maxMemory && k.Threads == 1 && len(k.Salt) == 16
}

func (k *kdf) key(passphrase string) []byte {
	return argon2.IDKey([]byte(passphrase), k.Salt, k.Passes, k.Memory, k.Threads, keySize)
}

func aead(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(b)
}

func (s *slot) open(key []byte) ([]byte, error) {
	a, err := aead(key)
	if err != nil {
		return nil, err
	}
	return a.Open(nil, nil, s.Sealed, []byte(what+" "+s.Kind))
}

func newSlot(kind string, key, secret []byte) (s slot, err error) {
	a, err := aead(key)
	if err != nil {
		return s, err
	}
	return slot{Kind: kind, Sealed: a.Seal(nil, nil, secret, []byte(what+" "+kind))}, nil
}

// parse reads a key file: the key, or how it is sealed.
func parse(b []byte) (secret []byte, f *file, err error) {
	if len(b) == keySize {
		return bytes.Clone(b), nil, nil
	}
	f = &file{}
	if len(b) > maxFile || json.Unmarshal(b, f) != nil || f.What != what {
		return nil, nil, fmt.Errorf("%w (%d bytes)", ErrDamaged, len(b))
	}
	if f.Version != 1 || len(f.Slots) == 0 || len(f.Slots) > 8 {
		return nil, nil, fmt.Errorf("%w, or was written by a newer version", ErrDamaged)
	}
	for _, s := range f.Slots {
		switch s.Kind {
		case Passphrase, recovery:
			if !s.KDF.valid() {
				return nil, nil, ErrDamaged
			}
		case TPM:
			if s.Chip == nil {
				return nil, nil, ErrDamaged
			}
		default:
			return nil, nil, fmt.Errorf("%w, or was written by a newer version", ErrDamaged)
		}
	}
	return nil, f, nil
}

func (f *file) kept() string {
	for _, s := range f.Slots {
		if s.Kind == TPM {
			return TPM
		}
	}
	return Passphrase
}

// Look tells how the key in a file is kept, without opening it; "" where there is none.
func Look(path string) (string, error) {
	b, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	_, f, err := parse(b)
	if err != nil {
		return "", err
	}
	if f == nil {
		return Plain, nil
	}
	return f.kept(), nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// Open opens the key of a file. A missing one is made, plain. Errors: ErrDamaged,
// ErrNeeded, ErrWrong, those of Options.Ask.
func Open(path string, o Options) (*Key, error) {
	k := &Key{path: path, o: o, kept: Plain}
	b, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		k.secret = make([]byte, keySize)
		rand.Read(k.secret)
		return k, k.replace(k.secret)
	}
	if err != nil {
		return nil, err
	}
	secret, f, err := parse(b)
	if err != nil {
		return nil, err
	}
	if err := k.tidy(); err != nil {
		return nil, err
	}
	if f != nil {
		k.kept = f.kept()
		if secret, err = k.unseal(f); err != nil {
			return nil, err
		}
	}
	k.secret = secret
	return k, nil
}

func (k *Key) unseal(f *file) ([]byte, error) {
	for _, s := range f.Slots {
		if s.Kind == TPM {
			secret, err := k.byChip(&s)
			if err == nil {
				return secret, nil
			}
			k.unwell = err
		}
	}
	if k.o.Ask == nil {
		return nil, k.andChip(ErrNeeded)
	}
	var last error
	if k.unwell != nil {
		last = fmt.Errorf("%w (%w)", ErrChip, k.unwell)
	}
	for {
		typed, err := k.o.Ask(last)
		if err != nil {
			return nil, k.andChip(err)
		}
		if secret := f.try(typed); secret != nil {
			return secret, nil
		}
		last = ErrWrong
	}
}

// andChip says of an error that the passphrase was asked for because of the chip.
func (k *Key) andChip(err error) error {
	if k.unwell == nil {
		return err
	}
	return fmt.Errorf("%w (%w): %w", ErrChip, k.unwell, err)
}

// try is the key, if a passphrase opens it.
func (f *file) try(typed string) []byte {
	for _, s := range f.Slots {
		pass := typed
		if s.Kind == recovery {
			pass = plainRecovery(typed)
		}
		if s.Kind == TPM || pass == "" || len(pass) > maxPassphrase {
			continue
		}
		if secret, err := s.open(s.KDF.key(pass)); err == nil && len(secret) == keySize {
			return secret
		}
	}
	return nil
}

func (k *Key) byChip(s *slot) ([]byte, error) {
	if k.o.Chip == nil {
		return nil, tpm.ErrNone
	}
	c, err := k.o.Chip()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	key, err := c.Unseal(*s.Chip)
	if err != nil {
		return nil, err
	}
	secret, err := s.open(key)
	if err != nil || len(secret) != keySize {
		return nil, tpm.ErrOther
	}
	return secret, nil
}

// Derive is a key of 32 bytes for one purpose.
func (k *Key) Derive(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, k.secret, nil, purpose, keySize)
}

// Secret is the key itself, for what derives its own keys from it.
func (k *Key) Secret() []byte { return k.secret }

// Status is how the key is kept.
type Status struct {
	Kept string `json:"kept"`              // Plain, Passphrase or TPM
	Chip string `json:"problem,omitempty"` // why the chip did not give it at this start
}

// Status tells how the key is kept.
func (k *Key) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{Kept: k.kept}
	if k.unwell != nil {
		s.Chip = k.unwell.Error()
	}
	return s
}

func (k *Key) slotBy(kind, passphrase string) (slot, error) {
	m := k.o.Memory
	if m == 0 {
		m = memory
	}
	d := &kdf{Passes: passes, Memory: m, Threads: 1, Salt: make([]byte, 16)}
	rand.Read(d.Salt)
	s, err := newSlot(kind, d.key(passphrase), k.secret)
	s.KDF = d
	return s, err
}

// SetPassphrase seals the key under a passphrase, in place of what it was sealed by.
// Errors: ErrWeak.
func (k *Key) SetPassphrase(passphrase string) error {
	if utf8.RuneCountInString(strings.TrimSpace(passphrase)) < minPassphrase || len(passphrase) > maxPassphrase {
		return ErrWeak
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s, err := k.slotBy(Passphrase, passphrase)
	if err != nil {
		return err
	}
	return k.keep(Passphrase, []slot{s}, passphrase)
}

// SealByChip gives the key to the TPM chip, in place of what it was sealed by, and returns
// the passphrase for the day when the chip does not give it back. It is nowhere else.
// Errors: those of package tpm.
func (k *Key) SealByChip() (recoveryPassphrase string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.o.Chip == nil {
		return "", tpm.ErrNone
	}
	c, err := k.o.Chip()
	if err != nil {
		return "", err
	}
	defer c.Close()
	key := make([]byte, keySize)
	rand.Read(key)
	chip, err := c.Seal(key)
	if err != nil {
		return "", err
	}
	// A chip that does not give it back now never will.
	if back, err := c.Unseal(chip); err != nil || !bytes.Equal(back, key) {
		return "", fmt.Errorf("the TPM chip does not give back what it took: %w", err)
	}
	s, err := newSlot(TPM, key, k.secret)
	if err != nil {
		return "", err
	}
	s.Chip = &chip
	pass := newRecovery()
	r, err := k.slotBy(recovery, plainRecovery(pass))
	if err != nil {
		return "", err
	}
	return pass, k.keep(TPM, []slot{s, r}, pass)
}

// SetPlain keeps the key as it is, in the file.
func (k *Key) SetPlain() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.replace(k.secret); err != nil {
		return err
	}
	k.kept, k.unwell = Plain, nil
	return nil
}

// keep writes the file with slots, after it was seen that the passphrase opens it.
func (k *Key) keep(kept string, slots []slot, passphrase string) error {
	b, err := json.MarshalIndent(file{What: what, Version: 1, Slots: slots}, "", " ")
	if err != nil {
		return err
	}
	_, f, err := parse(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(f.try(passphrase), k.secret) {
		return errors.New("the new file of the master key does not open; the old one stays")
	}
	if err := k.replace(append(b, '\n')); err != nil {
		return err
	}
	k.kept, k.unwell = kept, nil
	return nil
}

// tidy removes what a loss of power left beside the file while it was replaced: it may
// have the key as it is, while the file has it sealed.
func (k *Key) tidy() error {
	left := k.path + ".left"
	// By another name: it is no file that a running appliance puts in place just now.
	if err := os.Rename(k.path+".tmp", left); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(left, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	wipe(f)
	f.Close()
	return os.Remove(left)
}

// wipe overwrites a file, as far as the disk does that.
func wipe(f *os.File) {
	if st, err := f.Stat(); err == nil {
		f.WriteAt(make([]byte, st.Size()), 0)
		f.Sync()
	}
}

// replace puts a new file in the place of the old one, or leaves the old one. What the old
// one had is overwritten, as far as the disk does that.
func (k *Key) replace(b []byte) error {
	old, err := os.OpenFile(k.path, os.O_RDWR, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		defer old.Close()
	} else {
		old = nil
	}
	tmp := k.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		var have []byte
		if have, err = read(tmp); err == nil && !bytes.Equal(have, b) {
			err = errors.New("the disk gives back something else than was written")
		}
	}
	if err == nil {
		err = os.Rename(tmp, k.path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	d, err := os.Open(filepath.Dir(k.path))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil || old == nil {
		return err
	}
	// Only now: until here a loss of power could have brought the old one back.
	wipe(old)
	return nil
}

// A recovery passphrase is made of signs that are not mistaken for each other: 6 groups
// of 5 out of 32, 150 bits.
const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func newRecovery() string {
	var b [30]byte
	rand.Read(b[:])
	var s strings.Builder
	for i, c := range b {
		if i > 0 && i%5 == 0 {
			s.WriteByte('-')
		}
		s.WriteByte(letters[c&31])
	}
	return s.String()
}

// plainRecovery is what was typed as it was made, whatever stands between the groups.
func plainRecovery(typed string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			r += 'A' - 'a'
		}
		switch r {
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		if r < 128 && strings.ContainsRune(letters, r) {
			return r
		}
		return -1
	}, typed)
}
