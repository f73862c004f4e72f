package image_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// signedDisk is a fresh copy of an image that was built with SECUREBOOT=1.
func signedDisk(t testing.TB) string {
	t.Helper()
	path := os.Getenv("HOLDFAST_IMAGE_SIGNED")
	if path == "" {
		t.Skip("HOLDFAST_IMAGE_SIGNED is not set: make test-image builds an image that is signed for Secure Boot and sets it")
	}
	return diskOf(t, path, 2)
}

// systemPartition names the EFI system partition of a raw image as mtools have it: it
// is the first entry of the GPT. Source: UEFI 2.10, 5.3.3.
func systemPartition(t testing.TB, image string) string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entry [128]byte
	if _, err := f.ReadAt(entry[:], 2*512); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s@@%d", image, binary.LittleEndian.Uint64(entry[32:])*512)
}

// uki is a copy of the program that an image starts.
func uki(t testing.TB, image string) string {
	t.Helper()
	need(t, "mcopy")
	dir := t.TempDir()
	run(t, "mcopy", "-i", systemPartition(t, image), "::EFI/Linux/holdfast_*.efi", dir)
	files, err := filepath.Glob(filepath.Join(dir, "*.efi"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the system partition has the versions %v, %v", files, err)
	}
	return files[0]
}

// damageVersion changes one byte in the middle of the UKI, in the initial file system.
func damageVersion(t testing.TB, image string) {
	t.Helper()
	file := uki(t, image)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mcopy", "-o", "-i", systemPartition(t, image), file, "::EFI/Linux/")
}

// refused switches a machine on that must not start, and gives the firmware's words.
func refused(t *testing.T, o options, words string) {
	t.Helper()
	m := start(t, o)
	got := m.await(0, `(?:`+words+`)|Holdfast \S+ starts|HOLDFAST`, bootTime)[0]
	if !regexp.MustCompile(`^(?:` + words + `)$`).MatchString(got) {
		t.Errorf("it started: %q", got)
	}
	m.pullPlug()
}

// TestSecureBoot starts a signed image where the firmware has no keys yet: it takes
// the image's, restarts, and from then on starts nothing that they did not sign.
func TestSecureBoot(t *testing.T) {
	path := signedDisk(t)
	chip, vars := t.TempDir(), filepath.Join(t.TempDir(), "vars.fd")
	m := start(t, options{disk: path, secure: true, tpm: chip, vars: vars})
	m.off(bootTime)
	if s := clean(m.serial.from(0)); strings.Contains(s, "HOLDFAST") {
		t.Fatal("it ran before the firmware had its keys")
	}
	const secured = `HOLDFAST READY .*secureboot=(\S+) lockdown=(\S+) `
	n := m.again()
	if got := m.await(n, secured, bootTime); got[1] != "on" || got[2] != "integrity" {
		t.Errorf("Secure Boot is %s, lockdown %s", got[1], got[2])
	}
	s := claim(t, m)
	s.mustSend()
	s.signIn()
	s.recovery()
	if encrypted, tpm, there, warning := s.protection(); !encrypted || !tpm || !there || warning != "" {
		t.Errorf("encrypted %v, TPM %v, passphrase %v, warning %q", encrypted, tpm, there, warning)
	}
	m.powerButton()

	t.Run("an image without signatures is refused", func(t *testing.T) {
		v := filepath.Join(t.TempDir(), "vars.fd")
		copyFile(t, vars, v)
		refused(t, options{disk: disk(t, 2), secure: true, vars: v}, `failed to load[^\n]*Access Denied`)
	})
	t.Run("a changed version is refused", func(t *testing.T) {
		v, d := filepath.Join(t.TempDir(), "vars.fd"), filepath.Join(t.TempDir(), "disk.raw")
		copyFile(t, vars, v)
		copyFile(t, path, d)
		damageVersion(t, d)
		refused(t, options{disk: d, secure: true, vars: v}, `(?i)error loading[^\n]*(?:access denied|security violation)`)
	})
	// The same machine with Secure Boot off could run anything: its chip keeps the key.
	// What is started here is the same image, so only the firmware tells the difference;
	// and as its keys are cleared, the image's are taken off the disk.
	t.Run("the chip gives nothing without Secure Boot", func(t *testing.T) {
		d := filepath.Join(t.TempDir(), "disk.raw")
		copyFile(t, path, d)
		need(t, "mdeltree")
		run(t, "mdeltree", "-i", systemPartition(t, d), "::loader/keys")
		off := start(t, options{disk: d, tpm: chip})
		off.locked(0)
		off.pullPlug()
	})

	n = m.again()
	m.readyAlone(n)
	if got := m.await(n, secured, bootTime); got[1] != "on" {
		t.Error("Secure Boot is off after a restart")
	}
	s.check()
}
