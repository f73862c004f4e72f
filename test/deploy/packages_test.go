package deploy

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"holdfast/test/need"
)

// built makes something with the command that the Makefile uses.
func built(t *testing.T, tool string, dir string) string {
	t.Helper()
	cmd := exec.Command(tool, "-binary", binary(t), "-version", "0.0.1-gabc1234", "-epoch", "1700000000", "-out", dir)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", tool, err, out)
	}
	return strings.TrimSpace(string(out))
}

func goBuild(t *testing.T, dir string, env ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "tool")
	cmd := exec.Command("go", "build", "-o", bin, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

func sum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// TestOCI unpacks the container image as an engine does, checking every digest, and
// runs it as its user in its own root, with nothing else in it.
func TestOCI(t *testing.T) {
	tool := goBuild(t, "../../image/oci")
	path := built(t, tool, t.TempDir())
	if again := built(t, tool, t.TempDir()); sum(t, again) != sum(t, path) {
		t.Error("built twice, it differs")
	}
	if skopeo, err := exec.LookPath("skopeo"); err == nil {
		if out, err := exec.Command(skopeo, "inspect", "oci-archive:"+path).CombinedOutput(); err != nil {
			t.Errorf("skopeo does not take it: %v\n%s", err, out)
		}
	}
	blobs := unpackTar(t, path)
	type descriptor struct {
		Digest string
		Size   int
	}
	read := func(d descriptor, into any) []byte {
		t.Helper()
		b := blobs["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		s := sha256.Sum256(b)
		if "sha256:"+hex.EncodeToString(s[:]) != d.Digest || len(b) != d.Size {
			t.Fatalf("the blob %s is not what its name says", d.Digest)
		}
		if into != nil {
			if err := json.Unmarshal(b, into); err != nil {
				t.Fatal(err)
			}
		}
		return b
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(blobs["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%v %s", err, blobs["index.json"])
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	read(index.Manifests[0], &manifest)
	if len(manifest.Layers) != 1 {
		t.Fatalf("%d layers", len(manifest.Layers))
	}
	var image struct {
		Config struct {
			User       string
			Entrypoint []string
			Cmd        []string
			Env        []string
		}
	}
	read(manifest.Config, &image)
	need.Root(t)
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	unpackLayer(t, read(manifest.Layers[0], nil), root)
	var uid, gid uint32
	if n, err := fmt.Sscanf(image.Config.User, "%d:%d", &uid, &gid); n != 2 || uid == 0 {
		t.Fatalf("it runs as %q, %v", image.Config.User, err)
	}
	// Engines give every container /proc.
	proc := filepath.Join(root, "proc")
	if err := os.Mkdir(proc, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("proc", proc, "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(proc, syscall.MNT_DETACH) })
	https := freePort(t)
	args := append(slices.Clone(image.Config.Entrypoint[1:]), image.Config.Cmd...)
	cmd := exec.Command(image.Config.Entrypoint[0], append(args, "--set", fmt.Sprint("listen.https=127.0.0.1:", https), "--set", "listen.metrics=")...)
	cmd.Env = image.Config.Env
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	run(t, cmd)
	c := newClient(t, fmt.Sprintf("https://localhost:%d", https), nil, "127.0.0.1", fmt.Sprint("127.0.0.1:", https))
	c.trustAnybody()
	c.await()
	if _, err := os.Stat(filepath.Join(root, "var/lib/holdfast/holdfast.db")); err != nil {
		t.Errorf("the data is not in the volume: %v", err)
	}
}

func unpackTar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func unpackLayer(t *testing.T, layer []byte, root string) {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(string(layer)))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, filepath.FromSlash(h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o755)
		case tar.TypeReg:
			var f *os.File
			if f, err = os.Create(to); err == nil {
				_, err = io.Copy(f, r)
				f.Close()
			}
		default:
			t.Fatalf("%s is neither file nor folder", h.Name)
		}
		if err == nil {
			err = os.Chown(to, h.Uid, h.Gid)
		}
		if err == nil {
			err = os.Chmod(to, os.FileMode(h.Mode).Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDeb unpacks the Debian package with Debian's own tool, looks for what must be
// in it, and runs the program from it.
func TestDeb(t *testing.T) {
	dpkg := need.Program(t, "dpkg-deb", "dpkg")
	tool := goBuild(t, "../../image/deb", "GOFLAGS=-mod=readonly")
	path := built(t, tool, t.TempDir())
	if again := built(t, tool, t.TempDir()); sum(t, again) != sum(t, path) {
		t.Error("built twice, it differs")
	}
	// A build from before a release is older than it.
	if out, err := exec.Command(dpkg, "--field", path, "Version").CombinedOutput(); err != nil || string(out) != "0.0.1~gabc1234\n" {
		t.Errorf("the version is %q, %v", out, err)
	}
	root := t.TempDir()
	if out, err := exec.Command(dpkg, "--raw-extract", path, root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	unit, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system/holdfast.service"))
	if err != nil || !strings.Contains(string(unit), "ExecStart=/usr/bin/holdfast serve") {
		t.Errorf("the unit does not start the packaged program: %v\n%s", err, unit)
	}
	for _, f := range []string{"etc/holdfast/appliance.toml", "usr/lib/sysusers.d/holdfast.conf", "usr/share/doc/holdfast/copyright", "DEBIAN/conffiles"} {
		if _, err := os.Stat(filepath.Join(root, f)); err != nil {
			t.Error(err)
		}
	}
	for _, script := range []string{"preinst", "postinst", "prerm", "postrm"} {
		if out, err := exec.Command("sh", "-n", filepath.Join(root, "DEBIAN", script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", script, err, out)
		}
	}
	if out, err := exec.Command(filepath.Join(root, "usr/bin/holdfast"), "config", "print", "--config", filepath.Join(root, "etc/holdfast/appliance.toml")).CombinedOutput(); err != nil {
		t.Errorf("the packaged configuration is refused: %v\n%s", err, out)
	}
}
