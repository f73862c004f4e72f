package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/appliance/tpm"
	"holdfast/image/disk/mapper"
)

// device is a disk, or a file in its place.
type device interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	size() int64
	sectorSize() int
	readOnly() bool
	// resize tells the kernel a partition's new place, in bytes.
	resize(number int, offset, size int64) error
}

// host is the machine: where it shows its disks, and what it makes of them. Tests
// have disks in memory, which fail where they want.
type host struct {
	sys, dev, vars string
	open           func(path string) (device, error)
	view           func(name, uuid string, c mapper.Crypt) (string, error)
	unview         func(name string) error
	tpm            func() (*tpm.TPM, error)
	guess          time.Duration // how long one guess of a passphrase takes
}

func thisHost() host {
	return host{sys: "/sys", dev: "/dev", vars: "/sys/firmware/efi/efivars", open: openFile,
		view: mapper.Open, unview: mapper.Close, tpm: tpm.Open, guess: unlockTime}
}

type file struct {
	*os.File
	bytes  int64
	sector int
	locked bool // against writing
}

func openFile(path string) (device, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	locked := false
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		locked = true
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, err
	}
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err == unix.ENOTTY {
		sector, err = 512, nil // a file
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &file{f, end, sector, locked}, nil
}

func (f *file) size() int64     { return f.bytes }
func (f *file) sectorSize() int { return f.sector }
func (f *file) readOnly() bool  { return f.locked }

func (f *file) resize(number int, offset, size int64) error {
	if st, err := f.Stat(); err != nil || st.Mode()&os.ModeDevice == 0 {
		return err
	}
	p := unix.BlkpgPartition{Start: offset, Length: size, Pno: int32(number)}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(p)), Data: (*byte)(unsafe.Pointer(&p))}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg)))
	if e != 0 {
		return e
	}
	return nil
}

// node is the device file of a disk or partition by its name in sysfs.
func (h host) node(name string) string {
	return filepath.Join(h.dev, strings.ReplaceAll(name, "!", "/"))
}

// partitionName finds a partition's name in sysfs, such as "sda2" or "nvme0n1p2".
func (h host) partitionName(disk string, number int) string {
	files, _ := filepath.Glob(filepath.Join(h.sys, "class/block", disk, "*", "partition"))
	for _, f := range files {
		if h.number(f) == number {
			return filepath.Base(filepath.Dir(f))
		}
	}
	// As the kernel makes names.
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		disk += "p"
	}
	return disk + strconv.Itoa(number)
}

func (h host) partition(disk string, number int) string {
	return h.node(h.partitionName(disk, number))
}

// number reads a file of sysfs with a number in it, -1 for none.
func (h host) number(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1
	}
	return n
}

func (h host) readOnly(disk string) bool {
	return h.number(filepath.Join(h.sys, "class/block", disk, "ro")) == 1
}

// variable reads a variable of the firmware without its attributes.
func (h host) variable(name, vendor string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(h.vars, name+"-"+vendor))
	if err != nil {
		return nil, err
	}
	if len(b) < 4 {
		return nil, io.ErrUnexpectedEOF
	}
	return b[4:], nil
}

func (h host) secureBoot() bool {
	b, err := h.variable("SecureBoot", "8be4df61-93ca-11d2-aa0d-00e098032b8c")
	return err == nil && len(b) == 1 && b[0] == 1
}

// resizeFS asks ext4 to have that many blocks. Source: include/uapi/linux/ext4.h.
func resizeFS(dir *os.File, blocks uint64) error {
	const request = 1<<30 | 8<<16 | 'f'<<8 | 16 // _IOW('f', 16, __u64)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(&blocks)))
	if e != 0 {
		return e
	}
	return nil
}
