// Command guest is process 1 of the machine in which test/image/disk drives the data
// partition: it takes a command a line on the second serial line, and answers each
// with a line of JSON. As /sbin/modprobe it loads what the kernel asks for.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"holdfast/appliance/tpm"
	"holdfast/image/disk"
	"holdfast/image/disk/luks"
	"holdfast/image/hardware"
)

type answer struct {
	Err        string // the error's name, or its text
	Text       string // the error's text, or the result
	Bytes      int64
	Protection disk.Protection
}

var names = map[string]error{
	"ErrPassphrase": disk.ErrPassphrase, "ErrWrongPassphrase": disk.ErrWrongPassphrase, "ErrReadOnly": disk.ErrReadOnly,
	"ErrTwoDisks": disk.ErrTwoDisks, "ErrNoKey": disk.ErrNoKey, "ErrForeign": disk.ErrForeign, "ErrMemory": luks.ErrMemory,
}

func main() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		os.Exit(hardware.Modprobe(os.Args[1:]))
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}} {
		os.MkdirAll(m[1], 0o755)
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			log.Error("mount", "what", m[1], "err", err)
		}
	}
	if out, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY, 0); err == nil {
		log = slog.New(slog.NewTextHandler(out, nil))
	}
	// dm_crypt, ext4 and the ciphers the kernel has to ask for itself.
	if err := hardware.Load("/", "virtio_pci", "virtio_blk", "tpm_crb"); err != nil {
		log.Error("modules", "err", err)
	}
	tty, err := os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		log.Error("no line to talk by", "err", err)
		off()
	}
	raw, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err == nil {
		raw.Iflag, raw.Oflag, raw.Lflag = 0, 0, 0
		unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, raw)
	}
	g := &guest{log: log}
	fmt.Fprintln(tty, `{"Text":"hello"}`)
	for in := bufio.NewScanner(tty); in.Scan(); {
		word, rest, _ := strings.Cut(in.Text(), " ")
		a := g.do(word, rest)
		out, _ := json.Marshal(a)
		tty.Write(append(out, '\n'))
		if word == "off" {
			off()
		}
	}
	off()
}

func off() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

type guest struct {
	log *slog.Logger
	d   *disk.Disk
}

func (g *guest) do(word, rest string) (a answer) {
	ctx := context.Background()
	var err error
	switch word {
	case "find":
		if g.d, err = disk.Find(ctx, g.log); err == nil {
			a.Text = g.d.ESP()
		}
	case "prepare":
		err = g.d.Prepare(ctx)
	case "unlock":
		err = g.d.Unlock(ctx)
	case "unlockwith":
		err = g.d.UnlockWith(ctx, rest)
	case "mount":
		if err = g.d.Mount(ctx, "/data"); err == nil {
			var s unix.Statfs_t
			err = unix.Statfs("/data", &s)
			a.Bytes = int64(s.Blocks) * s.Bsize
			b, _ := os.ReadFile("/proc/mounts")
			for line := range strings.Lines(string(b)) {
				if strings.Contains(line, " /data ") {
					a.Text = line
				}
			}
		}
	case "size":
		var s unix.Statfs_t
		err = unix.Statfs("/data", &s)
		a.Bytes = int64(s.Blocks) * s.Bsize
	case "unmount":
		err = g.d.Unmount()
	case "protection":
	case "recovery":
		a.Text, err = g.d.NewRecovery()
	case "confirm":
		err = g.d.ConfirmRecovery(ctx, rest)
	case "reseal":
		err = g.d.Reseal(ctx)
	case "write":
		err = write("/data/file", rest)
	case "fill": // so many MiB
		err = fill("/data/large", rest)
	case "read":
		var b []byte
		b, err = os.ReadFile("/data/file")
		a.Text = string(b)
	case "extend":
		err = extend(rest)
	case "keys":
		var b []byte
		b, err = os.ReadFile("/proc/keys")
		a.Text = string(b)
	case "off":
	default:
		err = errors.New("no such command")
	}
	if g.d != nil {
		a.Protection = g.d.Protection()
	}
	if err != nil {
		a.Err, a.Text = err.Error(), err.Error()
		for name, e := range names {
			if errors.Is(err, e) {
				a.Err = name
			}
		}
		if errors.Is(err, tpm.ErrNone) {
			a.Err = "tpm.ErrNone"
		}
	}
	return a
}

func write(path, text string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Sync(), f.Close())
}

func fill(path, mib string) error {
	var n int
	if _, err := fmt.Sscan(mib, &n); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	for i := range n {
		for j := range b {
			b[j] = byte(i + j)
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// extend measures something more into PCR 7.
func extend(event string) error {
	f, err := os.OpenFile(tpm.Device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	digest := make([]byte, 32)
	copy(digest, event)
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(7), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
	}.Execute(transport.FromReadWriter(f))
	return err
}
