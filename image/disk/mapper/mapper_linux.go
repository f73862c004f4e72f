// Package mapper asks the kernel's device mapper for a decrypted view of a
// partition (dm-crypt).
//
// Invariants: the key is given through the kernel's keyring, in memory that only
// the kernel reads again, so that no table that can be listed has it; it is taken
// out of the keyring as soon as the view exists. A name has one view.
package mapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoMapper means that the kernel has no device mapper.
var ErrNoMapper = errors.New("the kernel has no device mapper: the modules dm_mod and dm_crypt must be loaded")

// Crypt is a view to be made.
type Crypt struct {
	Device     string // of the encrypted partition
	Key        []byte // AES in XTS mode: 64 bytes
	Offset     int64  // where the data begins, in bytes
	Size       int64  // of the data, in bytes
	SectorSize int    // bytes that are encrypted together
	Discards   bool   // tell the disk which blocks are not used
}

// Numbers of the interface. Source: include/uapi/linux/dm-ioctl.h.
const (
	cmdRemove  = 4
	cmdCreate  = 3
	cmdSuspend = 6 // without the flag of that name: resume
	cmdLoad    = 9
	headSize   = 312
	specSize   = 40

	flagSecure = 1 << 15 // the kernel clears its copy of the buffer
)

const control = "/dev/mapper/control"

// node makes sure that there is a node to talk to the device mapper by. Opening it
// makes the kernel load the module.
func node() (*os.File, error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		os.MkdirAll(filepath.Dir(control), 0o755)
		// Major 10, minor 236: fixed for this purpose.
		if err := unix.Mknod(control, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 236))); err != nil && err != unix.EEXIST {
			return nil, fmt.Errorf("%w (%w)", ErrNoMapper, err)
		}
		f, err = os.OpenFile(control, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoMapper, err)
	}
	return f, nil
}

// call makes one request; extra stands behind the head. It gives the device number.
func call(f *os.File, cmd uint, name, uuid string, flags uint32, targets uint32, extra []byte) (uint64, error) {
	size := max(headSize+len(extra), 4096)
	b := make([]byte, size)
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], 4) // interface version 4.0.0
	ne.PutUint32(b[12:], uint32(size))
	ne.PutUint32(b[16:], headSize)
	ne.PutUint32(b[20:], targets)
	ne.PutUint32(b[28:], flags)
	copy(b[48:48+127], name)
	copy(b[176:176+128], uuid)
	copy(b[headSize:], extra)
	const dir, kind = 3, 0xfd
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(dir<<30|headSize<<16|kind<<8|cmd), uintptr(unsafe.Pointer(&b[0])))
	runtime.KeepAlive(b)
	if e != 0 {
		return 0, e
	}
	return ne.Uint64(b[40:]), nil
}

// Open makes the view and gives the path of its device. A view of that name that
// nobody uses is replaced.
func Open(name, uuid string, c Crypt) (string, error) {
	if len(c.Key) != 64 || c.Size <= 0 || c.SectorSize < 512 || c.Offset%512 != 0 || c.Size%int64(c.SectorSize) != 0 {
		return "", fmt.Errorf("a view of %d bytes at %d, in sectors of %d, with a key of %d bytes is not possible", c.Size, c.Offset, c.SectorSize, len(c.Key))
	}
	var st unix.Stat_t
	if err := unix.Stat(c.Device, &st); err != nil {
		return "", fmt.Errorf("%s: %w", c.Device, err)
	}
	f, err := node()
	if err != nil {
		return "", err
	}
	defer f.Close()
	dev, err := call(f, cmdCreate, name, uuid, 0, 0, nil)
	if err == unix.EBUSY {
		if _, err := call(f, cmdRemove, name, "", 0, 0, nil); err != nil {
			return "", fmt.Errorf("the view %s exists already: %w", name, err)
		}
		dev, err = call(f, cmdCreate, name, uuid, 0, 0, nil)
	}
	if err != nil {
		return "", fmt.Errorf("device mapper: %w", err)
	}
	path, err := load(f, name, uuid, c, st.Rdev, dev)
	if err != nil {
		call(f, cmdRemove, name, "", 0, 0, nil)
		return "", err
	}
	return path, nil
}

func load(f *os.File, name, uuid string, c Crypt, rdev, dev uint64) (string, error) {
	// The key is in the keyring of this thread, so both calls are made by it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	label := "holdfast:" + uuid
	id, err := unix.AddKey("logon", label, c.Key, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return "", fmt.Errorf("the kernel's keyring does not take the disk's key: %w", err)
	}
	defer func() {
		unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0)
		unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	}()
	options := []string{}
	if c.SectorSize != 512 {
		options = append(options, "sector_size:"+strconv.Itoa(c.SectorSize))
	}
	if c.Discards {
		options = append(options, "allow_discards")
	}
	var params bytes.Buffer
	fmt.Fprintf(&params, "aes-xts-plain64 :%d:logon:%s 0 %d:%d %d %d", len(c.Key), label,
		unix.Major(rdev), unix.Minor(rdev), c.Offset/512, len(options))
	for _, o := range options {
		params.WriteString(" " + o)
	}
	for params.WriteByte(0); params.Len()%8 != 0; params.WriteByte(0) {
	}
	spec := make([]byte, specSize, specSize+params.Len())
	ne := binary.NativeEndian
	ne.PutUint64(spec[8:], uint64(c.Size/512))
	ne.PutUint32(spec[20:], uint32(specSize+params.Len()))
	copy(spec[24:], "crypt")
	if _, err := call(f, cmdLoad, name, "", flagSecure, 1, append(spec, params.Bytes()...)); err != nil {
		return "", fmt.Errorf("dm-crypt does not open %s: %w", c.Device, err)
	}
	if _, err := call(f, cmdSuspend, name, "", 0, 0, nil); err != nil {
		return "", fmt.Errorf("device mapper: %w", err)
	}
	minor := int(dev&0xff | dev>>12&^0xff)
	path := fmt.Sprintf("/dev/dm-%d", minor)
	// The kernel makes the node; without devtmpfs nobody does.
	for range 50 {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	major := int(dev >> 8 & 0xfff)
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(major), uint32(minor)))); err != nil && err != unix.EEXIST {
		return "", err
	}
	return path, nil
}

// Close takes a view away. It must not be in use; a view that is not there is fine.
func Close(name string) error {
	f, err := node()
	if err != nil {
		return err
	}
	defer f.Close()
	for try := 0; ; try++ {
		// Something may still look at a device that was just let go.
		_, err = call(f, cmdRemove, name, "", 0, 0, nil)
		if err != unix.EBUSY || try == 20 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err == unix.ENXIO {
		return nil
	}
	return err
}
