package update

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// loaderVendor is the vendor GUID of the boot loader interface.
// Source: systemd.io/BOOT_LOADER_INTERFACE.
const loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// Attributes of a variable that stays: non-volatile, boot service and runtime access.
const efiStays = 0x7

func (s *Slots) varPath(name string) string {
	return filepath.Join(s.Vars, name+"-"+loaderVendor)
}

// setVar writes a variable of the boot loader: four bytes of attributes, then UTF-16
// with a zero at its end.
func (s *Slots) setVar(name, value string) error {
	b := binary.LittleEndian.AppendUint32(nil, efiStays)
	for _, c := range append(utf16.Encode([]rune(value)), 0) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	path := s.varPath(name)
	// The kernel protects variables that exist from being written by accident.
	if f, err := os.Open(path); err == nil {
		unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0)
		f.Close()
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	// A variable is written whole, by one call.
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// syncFS waits until the file system that holds path is on disk.
func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
