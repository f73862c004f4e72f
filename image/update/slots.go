package update

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
)

// Attempts is how often a new version is tried before the one before it returns.
const Attempts = 3

// imagesDir is where the boot loader looks for images, on the EFI system partition.
const imagesDir = "EFI/Linux"

// ErrNoSpace means that the EFI system partition has no room for a further version.
var ErrNoSpace = errors.New("the system partition is full")

// Slot is one version on the EFI system partition.
type Slot struct {
	Version string `json:"version"`
	File    string `json:"-"`    // its name in EFI/Linux
	Size    int64  `json:"size"` // in bytes
	Booted  bool   `json:"booted"`
	// Counted says that it was not blessed yet; Left and Done are how many
	// attempts there are still and how many there were.
	Counted bool `json:"counted"`
	Left    int  `json:"left"`
	Done    int  `json:"done"`
}

// Failed reports whether the version was tried and did not become healthy.
func (s Slot) Failed() bool { return s.Counted && s.Left == 0 && !s.Booted }

// Slots are the versions on a mounted EFI system partition.
type Slots struct {
	// ESP is where the EFI system partition is mounted.
	ESP string
	// Running is the version of this process.
	Running string
	// Vars is the folder of EFI variables.
	Vars string
	// Writable lets the partition be written until the returned function is called.
	// nil: it always is.
	Writable func() (done func() error, err error)
}

// The name of a version's file: holdfast_1.4.0.efi, with the boot loader's counter
// before the dot while it was not blessed: holdfast_1.4.0+2-1.efi.
var slotName = regexp.MustCompile(`^holdfast_(.+?)(?:\+([0-9]{1,4})(?:-([0-9]{1,4}))?)?\.efi$`)

func fileName(version string) string { return "holdfast_" + version + ".efi" }

func parseSlot(name string) (Slot, bool) {
	m := slotName.FindStringSubmatch(name)
	if m == nil || CheckVersion(m[1]) != nil {
		return Slot{}, false
	}
	s := Slot{Version: m[1], File: name, Counted: m[2] != ""}
	s.Left, _ = strconv.Atoi(m[2])
	s.Done, _ = strconv.Atoi(m[3])
	return s, true
}

func (s *Slots) dir() string { return filepath.Join(s.ESP, imagesDir) }

// List gives the versions, newest first.
func (s *Slots) List() ([]Slot, error) {
	entries, err := os.ReadDir(s.dir())
	if err != nil {
		return nil, fmt.Errorf("the versions on the system partition cannot be listed: %w", err)
	}
	var list []Slot
	for _, e := range entries {
		slot, ok := parseSlot(e.Name())
		if !ok {
			continue
		}
		if info, err := e.Info(); err == nil {
			slot.Size = info.Size()
		}
		slot.Booted = slot.Version == s.Running
		list = append(list, slot)
	}
	slices.SortStableFunc(list, func(a, b Slot) int { return Compare(b.Version, a.Version) })
	return list, nil
}

// write runs f while the partition can be written, and waits until all is on disk.
func (s *Slots) write(f func() error) (err error) {
	done := func() error { return nil }
	if s.Writable != nil {
		if done, err = s.Writable(); err != nil {
			return fmt.Errorf("the system partition cannot be written: %w", err)
		}
	}
	err = f()
	return errors.Join(err, syncFS(s.ESP), done())
}

// Stage puts a bundle's image beside the running version, to be tried at the next
// start. What is neither the running version nor the good one before it is removed
// first. Errors: ErrDamaged, ErrNoSpace; then nothing has changed for the boot
// loader.
func (s *Slots) Stage(ctx context.Context, b *Bundle) error {
	if b.Version == s.Running {
		return fmt.Errorf("version %s is the one that runs", b.Version)
	}
	return s.write(func() error {
		if err := s.makeRoom(b.Version); err != nil {
			return err
		}
		tmp := filepath.Join(s.dir(), "update.tmp")
		if err := copyTo(ctx, tmp, b); err != nil {
			os.Remove(tmp)
			if errors.Is(err, syscall.ENOSPC) {
				return fmt.Errorf("%w: version %s needs %d MB", ErrNoSpace, b.Version, b.Size>>20)
			}
			return err
		}
		if err := s.keepHead(b); err != nil {
			os.Remove(tmp)
			return err
		}
		name := fmt.Sprintf("holdfast_%s+%d.efi", b.Version, Attempts)
		if err := os.Rename(tmp, filepath.Join(s.dir(), name)); err != nil {
			os.Remove(tmp)
			return err
		}
		return nil
	})
}

// makeRoom removes what is left of earlier updates: every version but the running
// one and the newest blessed one beside it, and files of the coming version.
func (s *Slots) makeRoom(coming string) error {
	list, err := s.List()
	if err != nil {
		return err
	}
	kept := 0
	for _, slot := range list {
		switch {
		case slot.Booted:
			continue
		case !slot.Counted && slot.Version != coming && kept == 0 && Compare(slot.Version, s.Running) < 0:
			kept++
			continue
		}
		if err := os.Remove(filepath.Join(s.dir(), slot.File)); err != nil {
			return err
		}
		if err := os.Remove(s.headPath(slot.Version)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(filepath.Join(s.dir(), "update.tmp")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Slots) headPath(version string) string {
	return filepath.Join(s.ESP, filepath.FromSlash(HeadFile(version)))
}

func (s *Slots) keepHead(b *Bundle) error {
	path := s.headPath(b.Version)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, b.head, 0o600)
}

// Manifest is what a version on the system partition says about itself.
func (s *Slots) Manifest(version string, keys []ed25519.PublicKey) (Manifest, error) {
	f, err := os.Open(s.headPath(version))
	if err != nil {
		return Manifest{}, err
	}
	defer f.Close()
	b, err := Open(f, keys)
	if err != nil {
		return Manifest{}, err
	}
	return b.Manifest, nil
}

// Bundle gives a version on the system partition as the bundle of size bytes that
// it came from.
func (s *Slots) Bundle(version string) (r io.ReadCloser, size int64, err error) {
	list, err := s.List()
	if err != nil {
		return nil, 0, err
	}
	i := slices.IndexFunc(list, func(slot Slot) bool { return slot.Version == version })
	if i < 0 {
		return nil, 0, fmt.Errorf("version %s is not on this machine", version)
	}
	head, err := os.ReadFile(s.headPath(version))
	if err != nil {
		return nil, 0, fmt.Errorf("the signature of version %s is not on this machine, so it cannot be handed on: %w", version, err)
	}
	f, err := os.Open(filepath.Join(s.dir(), list[i].File))
	if err != nil {
		return nil, 0, err
	}
	return &joined{io.MultiReader(bytes.NewReader(head), f), f}, int64(len(head)) + list[i].Size, nil
}

type joined struct {
	io.Reader
	io.Closer
}

func copyTo(ctx context.Context, path string, b *Bundle) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, &ctxReader{ctx, b}); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Trial reports whether the running version is being tried: it was started with
// the boot loader's counter and has not been blessed.
func (s *Slots) Trial() bool {
	list, err := s.List()
	if err != nil {
		return false
	}
	i := slices.IndexFunc(list, func(slot Slot) bool { return slot.Booted })
	return i >= 0 && list[i].Counted
}

// Bless says that the running version works: the boot loader stops counting. When
// an administrator asked for an older version, newer ones are removed, since the
// boot loader would choose them again. It may be called at every start.
func (s *Slots) Bless() error {
	list, err := s.List()
	if err != nil {
		return err
	}
	counted := func(slot Slot) bool { return slot.Booted && slot.Counted }
	// The boot loader prefers the newest that may still be tried. That an older one
	// runs beside it means that Start was used.
	passedOver := func(slot Slot) bool {
		return Compare(slot.Version, s.Running) > 0 && (!slot.Counted || slot.Left > 0)
	}
	if !slices.ContainsFunc(list, counted) && !slices.ContainsFunc(list, passedOver) {
		return nil
	}
	return s.write(func() error {
		for _, slot := range list {
			old := filepath.Join(s.dir(), slot.File)
			switch {
			case counted(slot):
				if err := os.Rename(old, filepath.Join(s.dir(), fileName(slot.Version))); err != nil {
					return err
				}
			case passedOver(slot):
				if err := os.Remove(old); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Start makes the boot loader choose a version at the next start only. Bless of
// that version makes it last.
func (s *Slots) Start(version string) error {
	list, err := s.List()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(slot Slot) bool { return slot.Version == version })
	if i < 0 {
		return fmt.Errorf("version %s is not on this machine", version)
	}
	if err := s.setVar("LoaderEntryOneShot", list[i].File); err != nil {
		return fmt.Errorf("the firmware does not keep which version to start: %w", err)
	}
	return nil
}
