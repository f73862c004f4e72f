package masterkey

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/appliance/tpm"
	"holdfast/appliance/tpm/tpmtest"
)

const good = "five words that nobody guesses"

// ask gives passphrases, one after the other, and then no more.
func ask(list ...string) func(error) (string, error) {
	return func(error) (string, error) {
		if len(list) == 0 {
			return "", ErrWrong
		}
		p := list[0]
		list = list[1:]
		return p, nil
	}
}

func open(t *testing.T, path string, o Options) *Key {
	t.Helper()
	o.Memory = 64
	k, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func file0(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v", st.Mode())
	}
	return b
}

func TestPassphrase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	k := open(t, path, Options{})
	secret := file0(t, path)
	if len(secret) != 32 || k.Status().Kept != Plain {
		t.Fatalf("%d bytes, %+v", len(secret), k.Status())
	}
	if err := k.SetPassphrase("short"); !errors.Is(err, ErrWeak) || !bytes.Equal(file0(t, path), secret) {
		t.Fatal(err)
	}
	old, err := os.Open(path) // whoever finds the blocks of the old file
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := k.SetPassphrase(good); err != nil {
		t.Fatal(err)
	}
	left := make([]byte, 32)
	if old.ReadAt(left, 0); bytes.Equal(left, secret) {
		t.Error("the old file still has the key")
	}
	sealed := file0(t, path)
	if bytes.Contains(sealed, secret) || k.Status().Kept != Passphrase {
		t.Errorf("%+v", k.Status())
	}
	if kept, err := Look(path); err != nil || kept != Passphrase {
		t.Error(kept, err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrNeeded) {
		t.Error(err)
	}
	if _, err := Open(path, Options{Ask: ask("a wrong one")}); !errors.Is(err, ErrWrong) {
		t.Error(err)
	}
	if !bytes.Equal(file0(t, path), sealed) {
		t.Error("a wrong passphrase changes the file")
	}
	k = open(t, path, Options{Ask: ask("a wrong one", good)})
	if !bytes.Equal(k.Secret(), secret) {
		t.Fatal("another key")
	}
	if err := k.SetPassphrase("another one, as long"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{Ask: ask(good)}); !errors.Is(err, ErrWrong) {
		t.Error("the old passphrase still opens it", err)
	}
	k = open(t, path, Options{Ask: ask("another one, as long")})
	if err := k.SetPlain(); err != nil || !bytes.Equal(file0(t, path), secret) {
		t.Fatal(err)
	}
	if err := k.SetPassphrase(good); err != nil {
		t.Fatal(err)
	}
	// A loss of power while it is kept as it is again: the sealed file stays, and what lies
	// beside it, which has the key, does not.
	if err := os.WriteFile(path+".tmp", secret, 0o600); err != nil {
		t.Fatal(err)
	}
	if k = open(t, path, Options{Ask: ask(good)}); !bytes.Equal(k.Secret(), secret) {
		t.Error("another key")
	}
	if _, err := os.Stat(path + ".tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key lies beside the sealed one: %v", err)
	}
}

func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	if err := open(t, path, Options{}).SetPassphrase(good); err != nil {
		t.Fatal(err)
	}
	sealed := file0(t, path)
	for name, b := range map[string][]byte{
		"empty": {}, "short": sealed[:40], "costly": bytes.Replace(sealed, []byte(`"memory_kib": 64`), []byte(`"memory_kib": 64000000`), 1),
		"later": bytes.Replace(sealed, []byte(`"version": 1`), []byte(`"version": 2`), 1), "large": bytes.Repeat([]byte("x"), 1<<20),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, Options{Ask: ask(good)}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChip seals by a chip in software: another chip does not open it, a chip that
// measured another start does not, the recovery passphrase does.
func TestChip(t *testing.T) {
	path, state := filepath.Join(t.TempDir(), "identity.key"), t.TempDir()
	with := func(dir string, events ...string) func() (*tpm.TPM, error) {
		return func() (*tpm.TPM, error) { return tpm.New(tpmtest.Start(t, dir, events...)), nil }
	}
	k := open(t, path, Options{Chip: with(state, "secure boot is on")})
	secret := file0(t, path)
	pass, err := k.SealByChip()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file0(t, path), secret) || k.Status().Kept != TPM {
		t.Fatalf("%+v", k.Status())
	}
	if k = open(t, path, Options{Chip: with(state, "secure boot is on")}); !bytes.Equal(k.Secret(), secret) {
		t.Fatal("another key")
	}
	for name, chip := range map[string]func() (*tpm.TPM, error){"no chip": nil, "another chip": with(t.TempDir(), "secure boot is on"), "another start": with(state, "secure boot is off")} {
		if _, err := Open(path, Options{Chip: chip}); !errors.Is(err, ErrNeeded) || !errors.Is(err, ErrChip) {
			t.Errorf("%s: %v", name, err)
		}
		k = open(t, path, Options{Chip: chip, Ask: ask("wrong", "  "+pass)})
		if !bytes.Equal(k.Secret(), secret) || k.Status().Chip == "" {
			t.Errorf("%s: %+v", name, k.Status())
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"what":"holdfast master key","version":1,"slots":[{"kind":"passphrase","kdf":{"passes":1,"memory_kib":64,"threads":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA=="},"sealed":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		secret, k, err := parse(b)
		if err == nil && len(secret) != keySize && (k == nil || len(k.Slots) == 0) {
			t.Errorf("%q gives nothing", b)
		}
	})
}
