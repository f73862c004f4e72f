package update

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Found is a bundle on a stick.
type Found struct {
	Manifest
	Device string // "sdb1"
	File   string // its name in the stick's root folder
}

// ErrNoStick means that there is no stick with an update in it.
var ErrNoStick = errors.New("no USB stick with an update was found: copy the file whose name ends in " + Extension +
	" into the root folder of a stick that is formatted as FAT, and plug it in")

// OnSticks looks for bundles that are signed with one of the keys in the root
// folders of removable disks, newest version first. own is the disk that the
// appliance itself is on ("sda"), which is left out. Errors: ErrNoStick.
func OnSticks(ctx context.Context, own string, keys []ed25519.PublicKey) ([]Found, error) {
	var list []Found
	var bad error
	err := eachStick(ctx, own, func(dev, root string) error {
		files, err := os.ReadDir(root)
		if err != nil {
			return nil
		}
		for _, e := range files {
			if !strings.EqualFold(filepath.Ext(e.Name()), Extension) || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			f, err := openPlain(filepath.Join(root, e.Name()))
			if err != nil {
				continue
			}
			b, err := Open(f, keys)
			f.Close()
			if err != nil {
				bad = fmt.Errorf("%s on the stick: %w", e.Name(), err)
				continue
			}
			list = append(list, Found{b.Manifest, dev, e.Name()})
		}
		return nil
	})
	slices.SortStableFunc(list, func(a, b Found) int { return Compare(b.Version, a.Version) })
	if err == nil && len(list) == 0 {
		err = errors.Join(bad, ErrNoStick)
		if bad != nil {
			err = bad
		}
	}
	return list, err
}

// FromStick opens a bundle that OnSticks found and hands it to use.
func FromStick(ctx context.Context, own string, found Found, keys []ed25519.PublicKey, use func(*Bundle) error) error {
	var done bool
	err := eachStick(ctx, own, func(dev, root string) error {
		if dev != found.Device || done {
			return nil
		}
		f, err := openPlain(filepath.Join(root, filepath.Base(found.File)))
		if err != nil {
			return fmt.Errorf("%s cannot be read from the stick: %w", found.File, err)
		}
		defer f.Close()
		b, err := Open(f, keys)
		if err != nil {
			return err
		}
		done = true
		return use(b)
	})
	if err == nil && !done {
		err = ErrNoStick
	}
	return err
}

// openPlain opens a regular file, never a link or a device: a stick is anybody's.
func openPlain(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrInvalid
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// eachStick mounts each file system of removable disks, read-only, and calls f.
func eachStick(ctx context.Context, own string, f func(dev, root string) error) error {
	disks, err := os.ReadDir("/sys/block")
	if err != nil {
		return err
	}
	for _, d := range disks {
		if d.Name() == own || !removable(d.Name()) {
			continue
		}
		for _, dev := range append([]string{d.Name()}, partitions(d.Name())...) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := mounted(dev, func(root string) error { return f(dev, root) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// removable reports whether a disk says so, or hangs on USB.
func removable(disk string) bool {
	b, _ := os.ReadFile(filepath.Join("/sys/block", disk, "removable"))
	if strings.TrimSpace(string(b)) == "1" && !strings.HasPrefix(disk, "sr") && !strings.HasPrefix(disk, "fd") {
		return true
	}
	path, err := filepath.EvalSymlinks(filepath.Join("/sys/block", disk))
	return err == nil && strings.Contains(path, "/usb")
}

func partitions(disk string) (list []string) {
	entries, _ := os.ReadDir(filepath.Join("/sys/block", disk))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), disk) {
			list = append(list, e.Name())
		}
	}
	return list
}

// mounted mounts a device as FAT for the time of f. What has another file system
// is passed over.
func mounted(dev string, f func(root string) error) (err error) {
	root, err := os.MkdirTemp("/run", "stick-")
	if err != nil {
		return err
	}
	defer os.Remove(root)
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if unix.Mount("/dev/"+dev, root, "vfat", flags, "") != nil {
		return nil
	}
	defer func() { err = errors.Join(err, unix.Unmount(root, 0)) }()
	return f(root)
}
