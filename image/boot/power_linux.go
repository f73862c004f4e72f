package boot

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ending is how the machine is stopped.
type ending int

const (
	restart ending = iota + 1
	shutDown
)

func (e ending) String() string {
	if e == shutDown {
		return "shuts down"
	}
	return "restarts"
}

// Codes of Linux's input events. Source: Linux, include/uapi/linux/input-event-codes.h.
const (
	evKey    = 1
	keyPower = 116
)

// inputEvent is struct input_event: two words of time, type, code, value.
const inputEvent = int(2*unsafe.Sizeof(uintptr(0))) + 8

// powerButtons calls pressed when a power button is pressed, of those that there
// are and of those that come.
func powerButtons(ctx context.Context, log *slog.Logger, pressed func()) {
	open := map[string]*os.File{}
	gone := make(chan string)
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		list, _ := filepath.Glob("/dev/input/event*")
		for _, path := range list {
			if open[path] != nil {
				continue
			}
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			open[path] = f
			if !hasPower(f) {
				f.Close() // it stays in the list, so that it is not asked again
				continue
			}
			log.Debug("a power button is watched", "device", path)
			go func() {
				readButton(f, pressed)
				f.Close()
				select {
				case gone <- path:
				case <-ctx.Done():
				}
			}()
		}
		select {
		case <-ctx.Done():
			return
		case path := <-gone:
			delete(open, path)
		case <-tick.C:
			for path := range open {
				if _, err := os.Stat(path); err != nil {
					delete(open, path)
				}
			}
		}
	}
}

// hasPower reports whether a device has the key.
func hasPower(f *os.File) bool {
	var bits [96]byte
	// EVIOCGBIT(EV_KEY, len(bits))
	req := uintptr(2<<30 | len(bits)<<16 | 'E'<<8 | (0x20 + evKey))
	c, err := f.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	c.Control(func(fd uintptr) {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, fd, req, uintptr(unsafe.Pointer(&bits[0])))
		ok = e == 0 && bits[keyPower/8]&(1<<(keyPower%8)) != 0
	})
	return ok
}

func readButton(f *os.File, pressed func()) {
	buf := make([]byte, 64*inputEvent)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= inputEvent; b = b[inputEvent:] {
			if isPower(b[:inputEvent]) {
				pressed()
			}
		}
	}
}

// isPower reports whether an event is the power button going down.
func isPower(e []byte) bool {
	tail := e[len(e)-8:]
	return binary.NativeEndian.Uint16(tail) == evKey && binary.NativeEndian.Uint16(tail[2:]) == keyPower && binary.NativeEndian.Uint32(tail[4:]) == 1
}
