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

// Mount mounts the open data at target and begins to make its file system as large
// as its partition. At the first start it makes the file system. Errors: ErrLocked,
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
	options := "data=ordered,barrier=1,commit=2,errors=remount-ro"
	if d.header.Discards() {
		options += ",discard"
	}
	mount := func() error {
		err := unix.Mount(d.view, target, "ext4", flags, options)
		switch {
		case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EBADMSG), errors.Is(err, unix.EINVAL):
			return fmt.Errorf("%w (%w)", ErrFileSystem, err)
		case errors.Is(err, unix.ENODEV):
			return fmt.Errorf("the kernel has no ext4: its module must be loaded (%w)", err)
		case err != nil:
			return fmt.Errorf("the data cannot be mounted: %w", err)
		}
		return nil
	}
	if err := mount(); err != nil {
		return err
	}
	before := fs.blocks
	if fs, err = d.superblock(); err != nil {
		return errors.Join(err, unix.Unmount(target, 0))
	}
	if fs.blocks != before {
		// The size came out of the journal: power went while the file system grew. The
		// kernel counted the block groups before it read the journal, and would refuse
		// every new file. It counts anew at the next mount.
		d.log.Info("the file system is mounted again, as its journal made it larger")
		if err := unix.Unmount(target, 0); err != nil {
			return err
		}
		if err := mount(); err != nil {
			return err
		}
	}
	d.target = target
	return d.enlarge(fs)
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

// growStep is how much a file system grows at once, in bytes: some seconds where it
// is slow.
const growStep = 64 << 30

// enlarge makes the mounted file system as large as its device: the first step now,
// so that there is room, and the rest beside the work. The kernel does it group by
// group through the journal, so that a stop leaves a whole file system, and the next
// start goes on.
func (d *Disk) enlarge(fs superblock) error {
	want := uint64(fs.view / fs.blockSize)
	if want <= fs.blocks {
		return nil
	}
	dir, err := os.Open(d.target)
	if err != nil {
		return err
	}
	step := func() (more bool) {
		fs.blocks = min(want, fs.blocks+uint64(growStep/fs.blockSize))
		if err = resizeFS(dir, fs.blocks); err == nil && fs.blocks < want {
			return true
		}
		dir.Close()
		return false
	}
	if !step() {
		d.grown(err, fs)
		return nil
	}
	stop, done := make(chan struct{}), make(chan struct{})
	d.stopGrowing = func() { close(stop); <-done; d.stopGrowing = nil }
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				dir.Close()
				return
			default:
			}
			if !step() {
				d.grown(err, fs)
				return
			}
		}
	}()
	return nil
}

// grown notes how the growing ended. If it failed, all works as before with less
// room.
func (d *Disk) grown(err error, fs superblock) {
	if err == nil {
		d.log.Info("the file system has grown", "bytes", int64(fs.blocks)*fs.blockSize)
		return
	}
	d.log.Error("the file system does not grow", "err", err)
	w := "The file system could not be made as large as the disk: " + err.Error() + "."
	d.growWarn.Store(&w)
}

// Unmount unmounts the data and takes the key out of memory.
func (d *Disk) Unmount() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopGrowing != nil {
		d.stopGrowing()
	}
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
