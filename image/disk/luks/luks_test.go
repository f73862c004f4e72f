package luks

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/test/need"
)

type file struct{ *os.File }

func (f file) Sync() error { return f.File.Sync() }

const testSize = 20 << 20

func image(t *testing.T) file {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(testSize); err != nil {
		t.Fatal(err)
	}
	return file{f}
}

// cheap is Argon2id with little memory.
func cheap() KDF { return KDF{Type: "argon2id", Time: 4, Memory: 64, CPUs: 2} }

const testUUID = "6c5f3b1c-6a39-4a43-8a6c-3b6f4c6d2a10"

func format(t *testing.T, d Device, pass string) (*Header, []byte) {
	t.Helper()
	h, key, err := Format(d, testUUID, "holdfast-data", "holdfast", 4096,
		NewSlot{Pass: []byte(pass), KDF: cheap(), Token: NewToken("test-first", map[string]any{"x": 1})},
		NewToken("test-state", map[string]any{"state": "formatting"}))
	if err != nil {
		t.Fatal(err)
	}
	return h, key
}

func cryptsetup(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("cryptsetup", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cryptsetup %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func needCryptsetup(t *testing.T) {
	t.Helper()
	need.Program(t, "cryptsetup", "cryptsetup-bin")
}

func TestRoundTrip(t *testing.T) {
	d := image(t)
	_, key := format(t, d, "first")
	h, err := Read(d, testSize)
	if err != nil {
		t.Fatal(err)
	}
	got, slot, err := h.Open(d, []byte("first"))
	if err != nil || !bytes.Equal(got, key) || slot != "0" {
		t.Fatal(slot, err)
	}
	if _, _, err := h.Open(d, []byte("First")); !errors.Is(err, ErrPass) {
		t.Fatal(err)
	}
	if off, ss := h.Data(); off != DataOffset || ss != 4096 {
		t.Fatal(off, ss)
	}
	if err := h.Change(d, key, Change{Add: []NewSlot{{Pass: []byte("second"), KDF: RandomKDF()}}, Remove: []string{"0"},
		Set: []Token{NewToken("test-state", map[string]any{"state": "ready"})}}); err != nil {
		t.Fatal(err)
	}
	h, err = Read(d, testSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Open(d, []byte("first")); !errors.Is(err, ErrPass) {
		t.Fatal("a removed slot opens", err)
	}
	if got, _, err := h.Open(d, []byte("second")); err != nil || !bytes.Equal(got, key) {
		t.Fatal(err)
	}
	var state string
	if l := h.Tokens("test-state"); len(l) != 1 || !l[0].Field("state", &state) || state != "ready" {
		t.Fatal(l)
	}
	if len(h.Tokens("test-first")) != 0 || h.Unwiped() {
		t.Fatal("a removed slot's token stays")
	}
}

// Debian's cryptsetup is the judge of the format, in both directions.
func TestCryptsetup(t *testing.T) {
	needCryptsetup(t)
	d := image(t)
	h, key := format(t, d, "first")
	if err := h.Change(d, key, Change{Add: []NewSlot{{Pass: []byte("machine"), KDF: RandomKDF()}}}); err != nil {
		t.Fatal(err)
	}
	path := d.Name()
	dump := cryptsetup(t, "", "luksDump", path)
	for _, want := range []string{"Version:       \t2", testUUID, "holdfast-data", "aes-xts-plain64", "argon2id", "test-state", "sector: 4096", "offset: 16777216"} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump does not say %q:\n%s", want, dump)
		}
	}
	for _, pass := range []string{"first", "machine"} {
		cryptsetup(t, pass, "open", "--test-passphrase", "--key-file", "-", path)
	}
	cmd := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", "-", path)
	cmd.Stdin = strings.NewReader("wrong")
	if cmd.Run() == nil {
		t.Fatal("cryptsetup opens with a wrong passphrase")
	}
	// A slot that cryptsetup made: we open it, and keep it when we write.
	old, add := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "new")
	os.WriteFile(old, []byte("first"), 0o600)
	os.WriteFile(add, []byte("by hand"), 0o600)
	cryptsetup(t, "", "luksAddKey", "--key-file", old, "--pbkdf", "argon2i", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "1024", path, add)
	h, err := Read(d, testSize)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := h.Open(d, []byte("by hand")); err != nil || !bytes.Equal(got, key) {
		t.Fatal(err)
	}
	if err := h.Change(d, key, Change{Remove: []string{"0"}}); err != nil {
		t.Fatal(err)
	}
	cryptsetup(t, "by hand", "open", "--test-passphrase", "--key-file", "-", path)
	cryptsetup(t, "by hand", "luksKillSlot", "-q", "--key-file", "-", path, "1")
	if h, err = Read(d, testSize); err != nil || len(h.Slots()) != 1 {
		t.Fatal(h.Slots(), err)
	}
	// The second copy alone is enough, for cryptsetup too, and Read puts back the first.
	if _, err := d.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if _, err = Read(d, testSize); err != nil {
		t.Fatal(err)
	}
	d.WriteAt(make([]byte, 4096), headerSize)
	cryptsetup(t, "by hand", "open", "--test-passphrase", "--key-file", "-", path)
}

func TestCalibrate(t *testing.T) {
	k := Calibrate(50 * time.Millisecond)
	if k.Type != "argon2id" || k.Time < minTime || k.Memory < minMemory || k.Memory > maxMemory || k.CPUs < 1 || k.Salt != nil {
		t.Fatalf("%+v", k)
	}
}
