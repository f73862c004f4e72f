//go:build linux

// Package vmtest runs a package's tests under the kernel of the disk image, in a
// virtual machine: bonds, VLANs and battery clocks are not in every kernel.
//
// Invariants: it is for tests only; the machine has no network card and no disk, so
// that nothing that a test does there reaches the one that it runs on; the package's
// tests are the machine's first program.
package vmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	argsFile = "/args"
	verdict  = "HOLDFAST TESTS ENDED WITH "
	limit    = 6 * time.Minute
)

// Inside tells whether this is the machine.
func Inside() bool { return os.Getenv("HOLDFAST_TEST_VM_INSIDE") != "" }

// Main is called first by TestMain: it is the machine's first program there, and
// returns at once elsewhere.
func Main() {
	if os.Getpid() != 1 {
		return
	}
	code := 1
	if err := first(&code); err != nil {
		fmt.Println("vmtest:", err)
	}
	fmt.Printf("\n%s%d\n", verdict, code)
	unix.Sync()
	time.Sleep(200 * time.Millisecond) // the serial port
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func first(code *int) error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("%s: %w", m[1], err)
		}
	}
	if err := load("/modules"); err != nil {
		return err
	}
	text, err := os.ReadFile(argsFile)
	if err != nil {
		return err
	}
	cmd := exec.Command("/init", strings.Split(strings.TrimSpace(string(text)), "\n")...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.Env = []string{"HOLDFAST_TEST_VM_INSIDE=1", "CI=true", "PATH=/", "HOME=/tmp", "TMPDIR=/tmp"}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		*code = exit.ExitCode()
		return nil
	}
	if err == nil {
		*code = 0
	}
	return err
}

// load loads all modules of a folder, those that others need before them.
func load(dir string) error {
	files, err := filepath.Glob(dir + "/*.ko")
	if err != nil {
		return err
	}
	for len(files) > 0 {
		var left []string
		var last error
		for _, name := range files {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
			if err != nil && !errors.Is(err, unix.EEXIST) {
				left, last = append(left, name), fmt.Errorf("%s: %w", name, err)
			}
		}
		if len(left) == len(files) {
			return last
		}
		files = left
	}
	return nil
}

// Run runs the calling package's tests whose names match run in the machine, with the
// kernel's modules that match the patterns (below lib/modules/RELEASE/kernel). It
// skips, with the reason, unless HOLDFAST_TEST_VM is set: a machine without hardware
// support takes a minute to start.
func Run(t *testing.T, run string, modules ...string) {
	t.Helper()
	if os.Getenv("HOLDFAST_TEST_VM") == "" {
		t.Skip("it starts a virtual machine, which takes a minute: set HOLDFAST_TEST_VM=1")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")
	}
	dir := t.TempDir()
	unpack(t, kernelPackage(t), dir, modules)
	kernel := glob(t, filepath.Join(dir, "boot", "vmlinuz-*"))
	if len(kernel) != 1 {
		t.Fatalf("kernels: %v", kernel)
	}
	initrd := filepath.Join(dir, "initrd")
	writeInitrd(t, initrd, run, dir)

	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	// Hardware support that is there and broken is worse than none; this is quick
	// enough without.
	cmd := exec.CommandContext(ctx, qemu, "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768", "-nographic", "-no-reboot",
		"-nic", "none", "-kernel", kernel[0], "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 rdinit=/init")
	out, err := cmd.CombinedOutput()
	text := string(bytes.ReplaceAll(out, []byte("\r"), nil))
	switch {
	case err != nil:
		t.Fatalf("the machine: %v\n%s", err, text)
	case !strings.Contains(text, verdict+"0\n"):
		t.Fatalf("%s", text)
	case !strings.Contains(text, "--- PASS"), strings.Contains(text, "--- SKIP"):
		t.Fatalf("tests did not run in the machine:\n%s", text)
	}
	t.Logf("%s", text)
}

// kernelPackage is the package that the image is built of, from its build's cache.
func kernelPackage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../build/pins.json")
	if err != nil {
		t.Fatal(err)
	}
	var pins []struct{ Name, Arch, Version string }
	if err := json.Unmarshal(text, &pins); err != nil {
		t.Fatal(err)
	}
	dirs := []string{"../../bin/cache/debs"}
	if c, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(c, "holdfast", "debs"))
	}
	for _, p := range pins {
		if !strings.HasPrefix(p.Name, "linux-image-") || p.Arch != "amd64" {
			continue
		}
		for _, d := range dirs {
			name := filepath.Join(d, fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch))
			if _, err := os.Stat(name); err == nil {
				return name
			}
		}
	}
	t.Fatal("the image's kernel is not in the cache: run make image first")
	return ""
}

func unpack(t *testing.T, deb, dir string, modules []string) {
	t.Helper()
	args := []string{"-x", "-C", dir, "--wildcards", "./boot/vmlinuz-*"}
	for _, m := range modules {
		args = append(args, "./lib/modules/*/kernel/"+m)
	}
	read := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	tar := exec.Command("tar", args...)
	pipe, err := read.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	tar.Stdin = pipe
	if err := read.Start(); err != nil {
		t.Fatal(err)
	}
	out, err := tar.CombinedOutput()
	if e := errors.Join(err, read.Wait()); e != nil {
		t.Fatalf("%v: %s", e, out)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// writeInitrd packs the machine's files (cpio, "newc").
func writeInitrd(t *testing.T, name, run, dir string) {
	t.Helper()
	var b bytes.Buffer
	add := func(path string, mode fs.FileMode, data []byte) {
		m := uint32(0o100000) | uint32(mode.Perm())
		if mode.IsDir() {
			m = 0o040000 | uint32(mode.Perm())
		}
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", b.Len()+1, m, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path)+1, 0, path)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
		b.Write(data)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	// The test that runs may be linked to a C library, which is not there.
	static := filepath.Join(dir, "test")
	build := exec.Command("go", "test", "-c", "-o", static, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.ReadFile(static)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"proc", "sys", "dev", "tmp", "modules"} {
		add(d, fs.ModeDir|0o755, nil)
	}
	add("init", 0o755, self)
	add(strings.TrimPrefix(argsFile, "/"), 0o644, []byte(strings.Join([]string{"-test.run", run, "-test.v", "-test.count=1"}, "\n")+"\n"))
	err = filepath.WalkDir(filepath.Join(dir, "lib"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".ko" {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil {
			add("modules/"+filepath.Base(path), 0o644, text)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	add("TRAILER!!!", 0, nil)
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
