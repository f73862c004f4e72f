package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"holdfast/image/disk/gpt"
)

const (
	// patience is how long a disk may take to appear.
	patience = 60 * time.Second
	// settle is how long another disk with the same labels may take to appear, where
	// the boot loader does not say which is the right one, or the disk is unused and
	// so has the identity of every other one.
	settle = 3 * time.Second
)

// Find finds the disk that the machine was started from: the one that the boot
// loader names, or, where it names none, the only one with partitions of our
// names. It waits for disks that are slow to appear. Errors: ErrNoDisk,
// ErrTwoDisks.
func Find(ctx context.Context, log *slog.Logger) (*Disk, error) {
	return find(ctx, thisHost(), log)
}

func find(ctx context.Context, h host, log *slog.Logger) (*Disk, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	id, err := h.bootPartition()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warn("the boot loader's word which disk it is cannot be read", "err", err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var since time.Time
	var last string
	for {
		found, seen := h.scan(id)
		switch {
		case len(found) > 1:
			return nil, fmt.Errorf("%w (%s)", ErrTwoDisks, names(found))
		case len(found) == 1 && id != (gpt.GUID{}) && !found[0].unused:
			return found[0].start(h, log), nil
		case len(found) == 1:
			if last != found[0].name {
				last, since = found[0].name, time.Now()
			} else if time.Since(since) >= settle {
				return found[0].start(h, log), nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if len(found) == 1 {
				return found[0].start(h, log), nil
			}
			what := "no disk is there: its controller has no driver, or it is not plugged in"
			if len(seen) > 0 {
				what = "these are there, and it is none of them: " + strings.Join(seen, ", ")
			}
			return nil, fmt.Errorf("%w: %s", ErrNoDisk, what)
		}
	}
}

func names(list []*Disk) string {
	var s []string
	for _, d := range list {
		s = append(s, d.name)
	}
	return strings.Join(s, ", ")
}

func (d *Disk) start(h host, log *slog.Logger) *Disk {
	d.host, d.log, d.Template = h, log, Template
	log.Info("the disk is found", "disk", d.name)
	return d
}

// loaderVendor is the vendor GUID of the boot loader interface.
// Source: systemd.io/BOOT_LOADER_INTERFACE.
const loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// bootPartition is the identity of the partition that the boot loader was read
// from, zero where it does not say.
func (h host) bootPartition() (gpt.GUID, error) {
	b, err := h.variable("LoaderDevicePartUUID", loaderVendor)
	if err != nil {
		return gpt.GUID{}, err
	}
	var u []uint16
	for ; len(b) >= 2 && len(u) < 64; b = b[2:] {
		if c := binary.LittleEndian.Uint16(b); c != 0 {
			u = append(u, c)
		}
	}
	return gpt.ParseGUID(string(utf16.Decode(u)))
}

// notDisks are names of devices that the appliance never starts from.
var notDisks = []string{"ram", "zram", "dm-", "loop", "sr", "fd", "nbd", "md"}

// scan looks at all disks: those with our partitions, and with the identity id
// where that is not zero; and the names of all.
func (h host) scan(id gpt.GUID) (found []*Disk, seen []string) {
	all, _ := filepath.Glob(filepath.Join(h.sys, "class/block/*"))
	for _, path := range all {
		name := filepath.Base(path)
		if slices.ContainsFunc(notDisks, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		if _, err := os.Stat(filepath.Join(path, "partition")); err == nil {
			continue
		}
		if h.number(filepath.Join(path, "size")) <= 0 {
			continue // an empty card reader
		}
		seen = append(seen, name)
		if d := h.look(name, id); d != nil {
			found = append(found, d)
		}
	}
	return found, seen
}

func (h host) look(name string, id gpt.GUID) *Disk {
	dev, err := h.open(h.node(name))
	if err != nil {
		return nil
	}
	defer dev.Close()
	t, err := gpt.Read(dev, dev.sectorSize(), dev.size())
	if err != nil {
		return nil
	}
	data, err := t.Find(DataLabel)
	if err != nil {
		return nil
	}
	esp, err := t.Find(ESPLabel)
	if err != nil || id != (gpt.GUID{}) && esp.ID != id {
		return nil
	}
	first := make([]byte, 512)
	if _, err := dev.ReadAt(first, int64(data.First)*int64(t.SectorSize)); err != nil {
		return nil
	}
	return &Disk{name: name, node: h.node(name), espNum: esp.Number, dataNum: data.Number,
		unused: bytes.HasPrefix(first, []byte(Marker)) || len(bytes.Trim(first, "\x00")) == 0}
}
