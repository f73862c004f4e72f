package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"holdfast/image/disk/luks"
)

// Mount mounts the open data at target and makes its file system as large as its
// partition. At the first start it makes the file system. Errors: ErrLocked,
// ErrTooSmall, ErrFileSystem.
func (d *Disk) Mount(ctx context.Context, target string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case d.view == "":
		return ErrLocked
	case d.target == target:
		return nil
	case d.target != "":
		return fmt.Errorf("the data is mounted at %s already", d.target)
	}
	if err := d.fill(); err != nil {
		return err
	}
	fs, err := d.superblock()
	if err != nil {
		return err
	}
	d.fsWarn = ""
	if fs.errors {
		d.fsWarn = "The file system has recorded errors of the disk: make a backup, and check it from a rescue stick with e2fsck."
		d.log.Error("the file system has recorded errors", "device", d.view)
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	// What is acknowledged is synced by the database itself; commit bounds the rest.
	const flags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME
	err = unix.Mount(d.view, target, "ext4", flags, "data=ordered,barrier=1,commit=2,errors=remount-ro")
	switch {
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EBADMSG), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w (%w)", ErrFileSystem, err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the kernel has no ext4: its module must be loaded (%w)", err)
	case err != nil:
		return fmt.Errorf("the data cannot be mounted: %w", err)
	}
	d.target = target
	if err := d.enlarge(fs); err != nil {
		// All works as before, with less room.
		d.fsWarn = "The file system could not be made as large as the disk: " + err.Error() + "."
		d.log.Error("the file system does not grow", "err", err)
	}
	return nil
}

// fill writes the empty file system, if that was not done yet.
func (d *Disk) fill() error {
	o, h, err := d.openHeader()
	if err != nil {
		return err
	}
	defer o.Close()
	if state(h) != formatting {
		return nil
	}
	view, err := d.host.open(d.view)
	if err != nil {
		return err
	}
	defer view.Close()
	if err := d.copyTemplate(view); err != nil {
		return fmt.Errorf("the new file system: %w", err)
	}
	if err := view.Sync(); err != nil {
		return err
	}
	// From here on there is something to lose.
	return d.change(o, h, luks.Change{Set: []luks.Token{luks.NewToken(stateToken, map[string]any{"state": ready})}})
}

func (d *Disk) copyTemplate(view device) error {
	f, err := os.Open(d.Template)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer z.Close()
	b := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := io.ReadFull(z, b)
		if n > 0 {
			if at+int64(n) > view.size() {
				return fmt.Errorf("%w: it has %d MiB", ErrTooSmall, view.size()>>20)
			}
			if _, err := view.WriteAt(b[:n], at); err != nil {
				return err
			}
			at += int64(n)
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			if at == 0 {
				return errors.New("the template is empty")
			}
			return nil
		default:
			return err
		}
	}
}

type superblock struct {
	blockSize int64
	blocks    uint64
	errors    bool // the kernel found some, now or before
	view      int64
}

// superblock reads the few facts that are needed before mounting. Errors:
// ErrFileSystem.
func (d *Disk) superblock() (s superblock, err error) {
	view, err := d.host.open(d.view)
	if err != nil {
		return s, err
	}
	defer view.Close()
	b := make([]byte, 1024)
	if _, err := view.ReadAt(b, 1024); err != nil {
		return s, fmt.Errorf("%w (%w)", ErrFileSystem, err)
	}
	le := binary.LittleEndian
	shift := le.Uint32(b[24:])
	if le.Uint16(b[56:]) != 0xef53 || shift > 6 {
		return s, fmt.Errorf("%w (its first block is lost)", ErrFileSystem)
	}
	return superblock{
		blockSize: 1024 << shift,
		blocks:    uint64(le.Uint32(b[4:])) | uint64(le.Uint32(b[336:]))<<32,
		errors:    le.Uint16(b[58:])&2 != 0,
		view:      view.size(),
	}, nil
}

// enlarge makes the mounted file system as large as its device. The kernel does it
// group by group through the journal, so that a stop leaves a whole file system,
// and the next start goes on.
func (d *Disk) enlarge(fs superblock) error {
	want := uint64(fs.view / fs.blockSize)
	if want <= fs.blocks {
		return nil
	}
	dir, err := os.Open(d.target)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := resizeFS(dir, want); err != nil {
		return err
	}
	d.log.Info("the file system has grown", "bytes", int64(want)*fs.blockSize)
	return nil
}

// Unmount unmounts the data and takes the key out of memory.
func (d *Disk) Unmount() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.target != "" {
		if err := unix.Unmount(d.target, 0); err != nil {
			return fmt.Errorf("%s: %w", d.target, err)
		}
		d.target = ""
	}
	if d.view != "" {
		if err := d.host.unview(viewName); err != nil {
			return err
		}
		d.view = ""
	}
	clear(d.key)
	d.key = nil
	return nil
}
