package machine

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"holdfast/image/update"
	"holdfast/store/schema"
	"holdfast/web"
)

func bundle(t *testing.T, key ed25519.PrivateKey, m update.Manifest) []byte {
	t.Helper()
	var b bytes.Buffer
	m.Created = time.Unix(1e9, 0)
	if err := update.Write(&b, m, bytes.NewReader([]byte("image "+m.Version)), key); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUpdates(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, _ := ed25519.GenerateKey(nil)
	steps, err := schema.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	esp := t.TempDir()
	if err := os.MkdirAll(filepath.Join(esp, "EFI/Linux"), 0o700); err != nil {
		t.Fatal(err)
	}
	running := filepath.Join(esp, "EFI/Linux/holdfast_1.0.0.efi")
	if err := os.WriteFile(running, []byte("image 1.0.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := &Updates{Slots: &update.Slots{ESP: esp, Running: "1.0.0", Vars: t.TempDir()}, Keys: []ed25519.PublicKey{pub}}
	ctx := context.Background()
	for _, c := range []struct {
		name      string
		m         update.Manifest
		key       ed25519.PrivateKey
		downgrade bool
		want      string // error code
	}{
		{"newer", update.Manifest{Version: "1.1.0", Arch: runtime.GOARCH, Schema: 99}, priv, false, ""},
		{"the same", update.Manifest{Version: "1.0.0", Arch: runtime.GOARCH, Schema: 99}, priv, false, "same_version"},
		{"another architecture", update.Manifest{Version: "1.1.0", Arch: "riscv64", Schema: 99}, priv, false, "wrong_arch"},
		{"a stranger's", update.Manifest{Version: "1.1.0", Arch: runtime.GOARCH, Schema: 99}, stranger, false, "bad_signature"},
		{"older, not asked for", update.Manifest{Version: "0.9.0", Arch: runtime.GOARCH, Schema: len(steps)}, priv, false, "downgrade"},
		{"older, asked for", update.Manifest{Version: "0.9.0", Arch: runtime.GOARCH, Schema: len(steps)}, priv, true, ""},
		{"older than the data", update.Manifest{Version: "0.8.0", Arch: runtime.GOARCH, Schema: len(steps) - 1}, priv, true, "too_old"},
	} {
		out, err := u.StageUpdate(ctx, bytes.NewReader(bundle(t, c.key, c.m)), c.downgrade)
		var we *web.Error
		switch {
		case c.want == "" && (err != nil || out.Version != c.m.Version):
			t.Errorf("%s: %+v, %v", c.name, out, err)
		case c.want != "" && (!errors.As(err, &we) || we.Code != c.want):
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	for _, c := range []struct{ data, want string }{{"no bundle at all, but long enough", "not_bundle"}, {"", "not_bundle"}} {
		var we *web.Error
		if _, err := u.StageUpdate(ctx, bytes.NewReader([]byte(c.data)), false); !errors.As(err, &we) || we.Code != c.want {
			t.Errorf("%q: %v", c.data, err)
		}
	}
	v, err := u.Versions(ctx)
	if err != nil || v.Running != "1.0.0" || len(v.Others) != 1 || v.Others[0].Version != "0.9.0" || v.Others[0].State != "waiting" || v.Others[0].Created.IsZero() {
		t.Errorf("%+v, %v", v, err)
	}
	// The version that came with the image has no signature beside it.
	if _, _, _, err := u.OpenBundle(ctx); err == nil {
		t.Error("a version without a signature is handed on")
	}
	head, version, err := update.Head(bytes.NewReader(bundle(t, priv, update.Manifest{Version: "1.0.0", Arch: runtime.GOARCH, Schema: 9})), u.Keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(esp, update.HeadFile(version)), head, 0o600); err != nil {
		t.Fatal(err)
	}
	r, _, version, err := u.OpenBundle(ctx)
	if err != nil || version != "1.0.0" {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := update.Open(r, u.Keys)
	if err != nil {
		t.Fatal(err)
	}
	if image, err := io.ReadAll(b); err != nil || string(image) != "image 1.0.0" {
		t.Errorf("%q, %v", image, err)
	}
}
