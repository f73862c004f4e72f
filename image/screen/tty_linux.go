package screen

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Consoles are the terminals that the kernel was told to use, as their device
// files: the screen's first terminal for "tty0".
func Consoles() (list []string) {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return nil
	}
	for _, name := range strings.Fields(string(b)) {
		if name == "tty0" {
			name = "tty1"
		}
		list = append(list, filepath.Join("/dev", name))
	}
	return list
}

// Run shows the status on terminals until ctx is done. info is called from several
// goroutines.
func Run(ctx context.Context, ttys []string, info func() Info, do Actions, log *slog.Logger) *Screens {
	s := &Screens{ctx: ctx}
	for _, path := range ttys {
		lines, changed := make(chan string, lineQueue), make(chan struct{}, 1)
		s.changes = append(s.changes, changed)
		if !isScreen(path) {
			s.lines = append(s.lines, lines)
		}
		s.wg.Go(func() {
			for ctx.Err() == nil {
				if err := one(ctx, path, info, do, lines, changed); err != nil {
					log.Debug("a terminal cannot be used", "terminal", path, "err", err)
				}
				// An unplugged serial adapter may come back.
				select {
				case <-time.After(5 * time.Second):
				case <-ctx.Done():
				}
			}
		})
	}
	return s
}

// isScreen reports whether a terminal is one of the kernel's on a screen.
func isScreen(path string) bool {
	n, ok := strings.CutPrefix(filepath.Base(path), "tty")
	return ok && strings.Trim(n, "0123456789") == ""
}

// one serves one terminal.
func one(ctx context.Context, path string, info func() Info, do Actions, lines <-chan string, changed <-chan struct{}) error {
	// Not to wait for the carrier of a serial line, it is opened without waiting.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path) // non-blocking: Close ends a Read
	defer f.Close()
	if err := raw(fd, isScreen(path)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{ctx: ctx, out: f, info: info, acts: do}
	if w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && isScreen(path) {
		s.y, s.x = max(0, (int(w.Row)-rows)/2), max(0, (int(w.Col)-cols)/2)
	}
	in := make(chan []byte)
	go func() {
		defer close(in)
		buf := make([]byte, 256)
		for {
			n, err := f.Read(buf)
			if err != nil || n == 0 {
				return
			}
			select {
			case in <- append([]byte(nil), buf[:n]...):
			case <-ctx.Done():
				return
			}
		}
	}()
	s.run(in, lines, changed)
	return nil
}

// raw sets a terminal to hand on each key as it comes. The speed stays as the
// kernel has set it.
func raw(fd int, screen bool) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.BRKINT | unix.ICRNL | unix.INLCR | unix.IGNCR | unix.INPCK | unix.ISTRIP | unix.IXON | unix.PARMRK
	t.Iflag |= unix.IGNBRK
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB | unix.CRTSCTS
	t.Cflag |= unix.CS8 | unix.CREAD | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return err
	}
	if screen {
		const lockSwitch = 0x560b           // VT_LOCKSWITCH: the other terminals show nothing
		unix.IoctlSetInt(fd, lockSwitch, 1) // where it may not be, it stays as it is
	}
	return nil
}
