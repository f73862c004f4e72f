package update

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCompare(t *testing.T) {
	order := []string{"0.0.9-gabcdef0", "0.0.10-g0123456", "0.1.0-rc1", "0.1.0-rc2", "0.1.0", "0.2.0", "0.10.0", "1.0.0"}
	for i, a := range order {
		if err := CheckVersion(a); err != nil {
			t.Errorf("%s is refused", a)
		}
		for j, b := range order {
			want := min(max(i-j, -1), 1)
			if got := Compare(a, b); got != want {
				t.Errorf("Compare(%s, %s) = %d, want %d", a, b, got, want)
			}
		}
	}
	if Compare("0.0.5-gabc1234", "0.0.5-gdef5678-dirty") != 0 {
		t.Error("the hash of a commit is taken for an order")
	}
	for _, bad := range []string{"", "1", "1.2", "v1.2.3", "1.2.3+4", "1.2.3-", "1.2.3/..", "../../x", "1.2.3-a b", "1.2.3-" + strings.Repeat("x", 41)} {
		if CheckVersion(bad) == nil {
			t.Errorf("%q is taken for a version", bad)
		}
	}
}

type kit struct {
	pub  ed25519.PublicKey
	priv ed25519.PrivateKey
}

func newKit(t testing.TB) kit {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return kit{pub, priv}
}

func (k kit) bundle(t testing.TB, version string, image []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	err := Write(&b, Manifest{Version: version, Arch: "amd64", Created: time.Unix(1e9, 0).UTC(), Schema: 9}, bytes.NewReader(image), k.priv)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (k kit) open(data []byte) (*Bundle, []byte, error) {
	b, err := Open(bytes.NewReader(data), []ed25519.PublicKey{k.pub})
	if err != nil {
		return nil, nil, err
	}
	image, err := io.ReadAll(b)
	return b, image, err
}

func TestBundle(t *testing.T) {
	k := newKit(t)
	image := bytes.Repeat([]byte("image "), 1000)
	data := k.bundle(t, "1.2.3", image)
	b, got, err := k.open(data)
	if err != nil || !bytes.Equal(got, image) || b.Version != "1.2.3" || b.Size != int64(len(image)) {
		t.Fatalf("%+v, %v", b, err)
	}
	// Whatever byte is another, nothing wrong comes out without an error.
	for i := range data {
		if i > 600 && i < len(data)-20 && i%97 != 0 {
			continue
		}
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if _, _, err := k.open(bad); !errors.Is(err, ErrNotBundle) && !errors.Is(err, ErrSignature) && !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	for _, n := range []int{0, 5, 20, 100, len(data) / 2, len(data) - 1} {
		if _, _, err := k.open(data[:n]); !errors.Is(err, ErrNotBundle) && !errors.Is(err, ErrDamaged) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if _, _, err := newKit(t).open(data); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	if _, err := Open(bytes.NewReader(data), nil); !errors.Is(err, ErrSignature) {
		t.Errorf("no key: %v", err)
	}
	// What follows the image is not read.
	if _, got, err := k.open(append(bytes.Clone(data), "more"...)); err != nil || !bytes.Equal(got, image) {
		t.Errorf("with something behind: %v", err)
	}
}

func TestManifestsThatLie(t *testing.T) {
	k := newKit(t)
	for _, m := range []Manifest{
		{Version: "../x", Arch: "amd64"},
		{Version: "1.2.3"},
		{Version: "1.2.3", Arch: "amd64", Schema: -1},
	} {
		if Write(io.Discard, m, strings.NewReader("x"), k.priv) == nil {
			t.Errorf("%+v is written", m)
		}
		m.Size, m.SHA256 = 1, strings.Repeat("00", 32)
		head, err := header(m)
		if err != nil {
			t.Fatal(err)
		}
		data := append(append(head, ed25519.Sign(k.priv, head)...), 'x')
		if _, _, err := k.open(data); !errors.Is(err, ErrNotBundle) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if Write(io.Discard, Manifest{Version: "1.2.3", Arch: "amd64", Notes: strings.Repeat("x", maxManifest)}, strings.NewReader("x"), k.priv) == nil {
		t.Error("a manifest that nobody would read is written")
	}
}

func TestParseKeys(t *testing.T) {
	k := newKit(t)
	text := "# keys\n" + base64.StdEncoding.EncodeToString(k.pub) + "\n\n" + base64.StdEncoding.EncodeToString(newKit(t).pub)
	keys, err := ParseKeys([]byte(text))
	if err != nil || len(keys) != 2 || !keys[0].Equal(k.pub) {
		t.Fatalf("%v, %v", keys, err)
	}
	if _, err := ParseKeys([]byte("AAAA")); err == nil {
		t.Error("a short key is taken")
	}
}

// esp is a system partition with files in EFI/Linux.
func esp(t *testing.T, running string, files ...string) *Slots {
	t.Helper()
	s := &Slots{ESP: t.TempDir(), Running: running, Vars: t.TempDir()}
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(s.dir(), f), []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *Slots) names(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(s.dir())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestStage(t *testing.T) {
	k := newKit(t)
	for _, c := range []struct {
		running       string
		before, after []string
	}{
		{"1.0.0", []string{"holdfast_1.0.0.efi"}, []string{"holdfast_1.0.0.efi", "holdfast_1.2.0+3.efi"}},
		{"1.1.0", []string{"holdfast_0.9.0.efi", "holdfast_1.0.0.efi", "holdfast_1.1.0.efi", "other.efi"}, []string{"holdfast_1.0.0.efi", "holdfast_1.1.0.efi", "holdfast_1.2.0+3.efi", "other.efi"}},
		// It was tried before and failed, and another attempt was cut off.
		{"1.1.0", []string{"holdfast_1.1.0.efi", "holdfast_1.2.0+0-3.efi", "update.tmp"}, []string{"holdfast_1.1.0.efi", "holdfast_1.2.0+3.efi"}},
		{"1.1.0", []string{"holdfast_1.1.0+2-1.efi", "holdfast_1.0.0.efi", "holdfast_1.3.0+3.efi"}, []string{"holdfast_1.0.0.efi", "holdfast_1.1.0+2-1.efi", "holdfast_1.2.0+3.efi"}},
	} {
		s := esp(t, c.running, c.before...)
		b, err := Open(bytes.NewReader(k.bundle(t, "1.2.0", []byte("new image"))), []ed25519.PublicKey{k.pub})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Stage(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		if got := s.names(t); !slices.Equal(got, c.after) {
			t.Errorf("%v became %v, want %v", c.before, got, c.after)
		}
		if image, err := os.ReadFile(filepath.Join(s.dir(), "holdfast_1.2.0+3.efi")); err != nil || string(image) != "new image" {
			t.Errorf("%q, %v", image, err)
		}
		// It can be handed on as it came.
		r, size, err := s.Bundle("1.2.0")
		if err != nil {
			t.Fatal(err)
		}
		again, err := io.ReadAll(r)
		r.Close()
		if err != nil || int64(len(again)) != size {
			t.Errorf("%d bytes of %d, %v", len(again), size, err)
		}
		if b, image, err := k.open(again); err != nil || string(image) != "new image" || b.Version != "1.2.0" {
			t.Errorf("handed on: %v", err)
		}
		if m, err := s.Manifest("1.2.0", []ed25519.PublicKey{k.pub}); err != nil || m.Schema != 9 {
			t.Errorf("%+v, %v", m, err)
		}
	}
}

func TestStageRefuses(t *testing.T) {
	k := newKit(t)
	data := k.bundle(t, "1.2.0", bytes.Repeat([]byte("new"), 1000))
	data[len(data)-1] ^= 1
	s := esp(t, "1.1.0", "holdfast_1.1.0.efi")
	b, err := Open(bytes.NewReader(data), []ed25519.PublicKey{k.pub})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stage(context.Background(), b); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged image: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b, _ = Open(bytes.NewReader(k.bundle(t, "1.2.0", []byte("x"))), []ed25519.PublicKey{k.pub})
	if err := s.Stage(ctx, b); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
	b, _ = Open(bytes.NewReader(k.bundle(t, "1.1.0", []byte("x"))), []ed25519.PublicKey{k.pub})
	if err := s.Stage(context.Background(), b); err == nil {
		t.Error("the running version is replaced")
	}
	if got := s.names(t); !slices.Equal(got, []string{"holdfast_1.1.0.efi"}) {
		t.Errorf("left behind: %v", got)
	}
}

func TestBless(t *testing.T) {
	for _, c := range []struct {
		name, running string
		before, after []string
	}{
		{"first attempt", "1.2.0", []string{"holdfast_1.1.0.efi", "holdfast_1.2.0+2-1.efi"}, []string{"holdfast_1.1.0.efi", "holdfast_1.2.0.efi"}},
		{"last attempt", "1.2.0", []string{"holdfast_1.1.0.efi", "holdfast_1.2.0+0-3.efi"}, []string{"holdfast_1.1.0.efi", "holdfast_1.2.0.efi"}},
		{"an ordinary start", "1.2.0", []string{"holdfast_1.1.0.efi", "holdfast_1.2.0.efi"}, []string{"holdfast_1.1.0.efi", "holdfast_1.2.0.efi"}},
		{"after a new version failed", "1.1.0", []string{"holdfast_1.1.0.efi", "holdfast_1.2.0+0-3.efi"}, []string{"holdfast_1.1.0.efi", "holdfast_1.2.0+0-3.efi"}},
		{"an older one was asked for", "1.1.0", []string{"holdfast_1.1.0+2-1.efi", "holdfast_1.2.0.efi"}, []string{"holdfast_1.1.0.efi"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := esp(t, c.running, c.before...)
			wasTrial := strings.Contains(strings.Join(c.before, " "), c.running+"+")
			if s.Trial() != wasTrial {
				t.Errorf("trial: %v", s.Trial())
			}
			for range 2 {
				if err := s.Bless(); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.names(t); !slices.Equal(got, c.after) {
				t.Errorf("got %v, want %v", got, c.after)
			}
			if s.Trial() {
				t.Error("still on trial")
			}
		})
	}
}

func TestStart(t *testing.T) {
	s := esp(t, "1.2.0", "holdfast_1.1.0.efi", "holdfast_1.2.0.efi")
	if s.Start("1.0.0") == nil {
		t.Error("a version that is not there is chosen")
	}
	if err := s.Start("1.1.0"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(s.Vars, "LoaderEntryOneShot-"+loaderVendor))
	if err != nil || string(b[:4]) != "\x07\x00\x00\x00" || !bytes.HasSuffix(b, []byte("i\x00\x00\x00")) || len(b) != 4+2*len("holdfast_1.1.0.efi")+2 {
		t.Errorf("%q, %v", b, err)
	}
}

// A partition that may not be written is left alone.
func TestNotWritable(t *testing.T) {
	s := esp(t, "1.2.0", "holdfast_1.2.0+2-1.efi")
	broken := errors.New("worn out")
	s.Writable = func() (func() error, error) { return nil, broken }
	if err := s.Bless(); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func FuzzOpen(f *testing.F) {
	k := newKit(f)
	f.Add(k.bundle(f, "1.2.3", []byte("image")))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Open(bytes.NewReader(data), []ed25519.PublicKey{k.pub})
		if err == nil {
			io.Copy(io.Discard, b)
		}
		// The same behind a right signature.
		if len(data) > maxManifest {
			return
		}
		head := append([]byte(magic), byte(len(data)>>24), byte(len(data)>>16), byte(len(data)>>8), byte(len(data)))
		head = append(head, data...)
		b, err = Open(bytes.NewReader(append(head, ed25519.Sign(k.priv, head)...)), []ed25519.PublicKey{k.pub})
		if err == nil {
			if CheckVersion(b.Version) != nil || b.Size > MaxImage {
				t.Fatal(fmt.Sprint("accepted: ", b.Manifest))
			}
			io.Copy(io.Discard, b)
		}
	})
}
