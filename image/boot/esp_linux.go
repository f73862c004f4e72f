package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// esp is the system partition. FAT has no journal: it is read-only but for the
// moments in which something is written, and these are few.
type esp struct {
	mu     sync.Mutex
	device string
}

const (
	espFlags   = noPrograms | unix.MS_NOATIME
	espOptions = "umask=0077,errors=remount-ro"
)

func (e *esp) mount() error {
	if err := unix.Mount(e.device, espDir, "vfat", espFlags|unix.MS_RDONLY, espOptions); err != nil {
		return fmt.Errorf("the system partition %s cannot be mounted: %w", e.device, err)
	}
	return nil
}

// writable lets the partition be written until done is called.
func (e *esp) writable() (done func() error, err error) {
	e.mu.Lock()
	if err := unix.Mount("", espDir, "", unix.MS_REMOUNT|espFlags, espOptions); err != nil {
		e.mu.Unlock()
		return nil, err
	}
	return func() error {
		defer e.mu.Unlock()
		return unix.Mount("", espDir, "", unix.MS_REMOUNT|espFlags|unix.MS_RDONLY, espOptions)
	}, nil
}

// write replaces a file of the settings' folder, so that a stop leaves the old or
// the new one.
func (e *esp) write(name string, data []byte) (err error) {
	done, err := e.writable()
	if err != nil {
		return fmt.Errorf("the system partition cannot be written: %w", err)
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := os.MkdirAll(settingsDir, 0o700); err != nil {
		return err
	}
	tmp, path := filepath.Join(settingsDir, "new.tmp"), filepath.Join(settingsDir, name)
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(espDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}
