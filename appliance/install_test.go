package appliance

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"holdfast/test/need"
)

// installIn is an installer that works below a folder and notes which programs it
// would have started: a service manager is not there in a test.
func installIn(t *testing.T) (*installer, *[]string, *bytes.Buffer) {
	t.Helper()
	self := filepath.Join(t.TempDir(), "holdfast")
	if err := os.WriteFile(self, []byte("program one"), 0o755); err != nil {
		t.Fatal(err)
	}
	var ran []string
	var out bytes.Buffer
	return &installer{out: &out, root: t.TempDir(), self: self, run: func(_ context.Context, name string, args ...string) error {
		ran = append(ran, name+" "+args[0])
		return nil
	}}, &ran, &out
}

func TestInstall(t *testing.T) {
	in, ran, out := installIn(t)
	in.dry = true
	if err := in.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(in.root); len(files) > 0 || len(*ran) > 0 {
		t.Errorf("--dry-run did something: %v, %v", files, *ran)
	}
	if !strings.Contains(out.String(), "would write "+installedUnit) {
		t.Errorf("--dry-run says %q", out)
	}
	in.dry = false
	// The administrator's configuration is left alone.
	if err := replaceFile(in.path(installedConfig), []byte("server_name = \"x\"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"start", "restart"} {
		*ran = nil
		if i == 1 {
			if err := os.WriteFile(in.self, []byte("program two"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := in.install(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(in.path(installedBinary))
		program := []string{"program one", "program two"}[i]
		if err != nil || string(got) != program {
			t.Errorf("the program is %q, %v", got, err)
		}
		if info, err := os.Stat(in.path(installedBinary)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if last := (*ran)[len(*ran)-1]; last != "systemctl "+want {
			t.Errorf("programs: %v, want %s at the end", *ran, want)
		}
	}
	if got, _ := os.ReadFile(in.path(installedConfig)); string(got) != "server_name = \"x\"\n" {
		t.Errorf("the configuration was written over: %q", got)
	}
	if err := in.uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{installedBinary, installedUnit, installedUsers} {
		if _, err := os.Stat(in.path(gone)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", gone)
		}
	}
	if _, err := os.Stat(in.path(installedConfig)); err != nil {
		t.Error("the configuration is gone")
	}
	if err := in.uninstall(t.Context()); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("uninstalled twice: %v", err)
	}
	// A removal that was cut off is finished.
	if err := replaceFile(in.path(installedBinary), []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := in.uninstall(t.Context()); err != nil || in.exists(installedBinary) {
		t.Errorf("what was left is not removed: %v", err)
	}
}

// TestInstallBesideAPackage leaves alone what the package manager takes care of.
func TestInstallBesideAPackage(t *testing.T) {
	for _, unit := range packagedUnits {
		in, ran, _ := installIn(t)
		if err := replaceFile(in.path(unit), []byte("[Unit]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, do := range []func(context.Context) error{in.install, in.uninstall} {
			if err := do(t.Context()); err == nil || !strings.Contains(err.Error(), "package") || len(*ran) > 0 {
				t.Errorf("%v, and it ran %v", err, *ran)
			}
		}
	}
}

// TestServiceUnit has systemd's own tools read the unit.
func TestServiceUnit(t *testing.T) {
	analyze := need.Program(t, "systemd-analyze", "systemd")
	out, err := exec.Command(analyze, "security", "--offline=yes", "--no-pager", "holdfast.service").CombinedOutput()
	score := regexp.MustCompile(`exposure level for holdfast.service: ([0-9.]+)`).FindSubmatch(out)
	if score == nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n, err := strconv.ParseFloat(string(score[1]), 64); err != nil || n > 2 {
		t.Errorf("systemd rates the unit's exposure %s, more than 2", score[1])
	}
}
