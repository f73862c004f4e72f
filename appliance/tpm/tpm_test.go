package tpm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"holdfast/appliance/tpm/tpmtest"
)

func chip(t *testing.T, dir string, events ...string) *TPM {
	t.Helper()
	return New(tpmtest.Start(t, dir, events...))
}

func TestSeal(t *testing.T) {
	dir := t.TempDir()
	secret := bytes.Repeat([]byte{7, 9}, 16)
	c := chip(t, dir, "secure boot is on")
	s, err := c.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(s.Private, secret) || bytes.Contains(s.Public, secret) {
		t.Fatal("what is kept has the secret in it")
	}
	for range 5 { // nothing stays loaded in the chip
		if got, err := c.Unseal(s); err != nil || !bytes.Equal(got, secret) {
			t.Fatal(err)
		}
	}
	// The same start.
	c.Close()
	c = chip(t, dir, "secure boot is on")
	if got, err := c.Unseal(s); err != nil || !bytes.Equal(got, secret) {
		t.Fatal(err)
	}
	// Something more was measured, and another start.
	tpmtest.Extend(t, c.close.(io.ReadWriter), "something else was loaded")
	if _, err := c.Unseal(s); !errors.Is(err, ErrChanged) {
		t.Fatal(err)
	}
	c.Close()
	c = chip(t, dir, "secure boot is off")
	if _, err := c.Unseal(s); !errors.Is(err, ErrChanged) {
		t.Fatal(err)
	}
	// Sealed again, it is given to this start and not to the one before.
	s2, err := c.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Unseal(s2); err != nil || !bytes.Equal(got, secret) {
		t.Fatal(err)
	}
	c.Close()
	c = chip(t, dir, "secure boot is on")
	if _, err := c.Unseal(s2); !errors.Is(err, ErrChanged) {
		t.Fatal(err)
	}
	// Another machine's chip.
	other := chip(t, t.TempDir(), "secure boot is on")
	if _, err := other.Unseal(s); !errors.Is(err, ErrOther) {
		t.Fatal(err)
	}
	// What was kept was damaged.
	for _, damage := range []func(*Sealed){
		func(s *Sealed) { s.Private = s.Private[:len(s.Private)-1] },
		func(s *Sealed) { s.Private = bytes.Clone(s.Private); s.Private[40] ^= 1 },
		func(s *Sealed) { s.Public = nil },
		func(s *Sealed) { s.Private = make([]byte, 1<<20) },
	} {
		d := s
		damage(&d)
		if _, err := c.Unseal(d); !errors.Is(err, ErrOther) {
			t.Fatal(err)
		}
	}
}

func TestNotMeasured(t *testing.T) {
	c := chip(t, t.TempDir())
	if _, err := c.Seal([]byte("secret")); !errors.Is(err, ErrNotMeasured) {
		t.Fatal(err)
	}
}

func TestOwned(t *testing.T) {
	c := chip(t, t.TempDir(), "event")
	if _, err := (tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("someone else's")},
	}).Execute(c.t); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Seal([]byte("secret")); !errors.Is(err, ErrOwned) {
		t.Fatal(err)
	}
}

func TestNone(t *testing.T) {
	if _, err := os.Stat(Device); err == nil {
		t.Skip("this machine has a TPM")
	}
	if _, err := Open(); !errors.Is(err, ErrNone) {
		t.Fatal(err)
	}
}
