package hardware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoModule means that no module of the running kernel has this name or alias.
var ErrNoModule = errors.New("there is no such module")

// Release is the name of the running kernel, as its modules' folder is called.
func Release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// dir is the folder of the running kernel's modules.
func dir(root string) (string, error) {
	release, err := Release()
	return filepath.Join(root, "lib/modules", release), err
}

// OpenIndex reads the running kernel's index below a root folder. On a system that
// is not the image it makes do with the index that depmod(8) has written.
func OpenIndex(root string) (*Index, error) {
	d, err := dir(root)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(d, IndexName))
	if errors.Is(err, fs.ErrNotExist) {
		return readDepmod(d)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadIndex(f)
}

// readDepmod reads what the report needs of depmod's lists. Such an index cannot be
// loaded from.
func readDepmod(dir string) (*Index, error) {
	b, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return nil, err
	}
	x := newIndex()
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			x.addAlias(normal(f[1]), normal(f[2]))
		}
	}
	if b, err = os.ReadFile(filepath.Join(dir, "modules.builtin")); err == nil {
		for line := range strings.Lines(string(b)) {
			x.builtin[nameOf(strings.TrimSpace(line))] = true
		}
	}
	x.sort()
	return x, nil
}

// Loader loads modules of the running kernel, each once.
type Loader struct {
	index *Index
	dir   string
	log   *slog.Logger
	mu    sync.Mutex
	once  map[string]func() error
	later []string // names that modules want after them
	count int      // modules that were loaded
}

// NewLoader reads the index below a root folder, "/" in the image.
func NewLoader(root string, log *slog.Logger) (*Loader, error) {
	d, err := dir(root)
	if err != nil {
		return nil, err
	}
	x, err := OpenIndex(root)
	if err != nil {
		return nil, fmt.Errorf("the index of the kernel's modules cannot be read: %w", err)
	}
	return &Loader{index: x, dir: d, log: log, once: map[string]func() error{}}, nil
}

// Load loads modules by name or alias, with what they need. What is loaded already
// or built into the kernel is well. Errors: ErrNoModule.
func (l *Loader) Load(names ...string) error {
	var errs []error
	for _, name := range names {
		list := l.index.resolve(name)
		if len(list) == 0 {
			errs = append(errs, fmt.Errorf("%s: %w", name, ErrNoModule))
		}
		for _, n := range list {
			if err := l.loadAll(n); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Count is how many modules were loaded.
func (l *Loader) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// loadAll loads one module, and then what the modules that this brought want after
// them. Only that runs while nobody waits, so two modules that want each other
// cannot stop one another.
func (l *Loader) loadAll(name string) error {
	err := l.load(name)
	for {
		l.mu.Lock()
		later := l.later
		l.later = nil
		l.mu.Unlock()
		if len(later) == 0 {
			return err
		}
		for _, w := range later {
			l.soft(w)
		}
	}
}

// load loads one module after all that it needs. The index has no circles.
func (l *Loader) load(name string) error {
	if l.index.builtin[name] {
		return nil
	}
	m := l.index.modules[name]
	if m == nil {
		return fmt.Errorf("%s: %w", name, ErrNoModule)
	}
	l.mu.Lock()
	f := l.once[name]
	if f == nil {
		f = sync.OnceValue(func() error { return l.insert(name, m) })
		l.once[name] = f
	}
	l.mu.Unlock()
	return f()
}

func (l *Loader) insert(name string, m *module) error {
	for _, dep := range m.deps {
		if err := l.load(dep); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, w := range m.pre {
		l.soft(w)
	}
	err := finit(filepath.Join(l.dir, m.path))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.later = append(l.later, m.post...)
	if errors.Is(err, syscall.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	l.count++
	return nil
}

// soft loads what a module only would like to have.
func (l *Loader) soft(want string) {
	for _, n := range l.index.resolve(want) {
		if err := l.load(n); err != nil && !errors.Is(err, syscall.ENODEV) {
			l.log.Debug("a module that another would like was not loaded", "module", n, "err", err)
		}
	}
}

func finit(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		err = unix.FinitModule(int(f.Fd()), "", 0)
		if err != syscall.EINTR {
			return err
		}
	}
}

// Load loads modules of the folder root by name or alias.
func Load(root string, names ...string) error {
	l, err := NewLoader(root, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return l.Load(names...)
}

// Modprobe is the program /sbin/modprobe that the kernel calls when it wants a
// module: its arguments are "-q -- NAME".
func Modprobe(args []string) int {
	var names []string
	for i, a := range args {
		if a == "--" {
			names = append(names, args[i+1:]...)
			break
		}
		if !strings.HasPrefix(a, "-") {
			names = append(names, a)
		}
	}
	if len(names) == 0 {
		return 1
	}
	if err := Load("/", names[:1]...); err != nil { // what follows a name are its parameters
		return 1
	}
	return 0
}

// Coldplug loads the modules for all devices that there are, until no new device
// appears. A module that cannot be loaded is told to the log and does not stop it.
func Coldplug(ctx context.Context, root string, log *slog.Logger) error {
	l, err := NewLoader(root, log)
	if err != nil {
		return err
	}
	return l.Coldplug(ctx)
}

// Coldplug loads the modules for all devices that there are now.
func (l *Loader) Coldplug(ctx context.Context) error {
	seen := map[string]bool{}
	for range 16 { // a bus behind a bus behind a bus: far fewer
		fresh := false
		var names []string
		err := eachDevice("/sys", func(modalias string) {
			if !seen[modalias] {
				seen[modalias], fresh = true, true
				names = append(names, modalias)
			}
		})
		if err != nil {
			return err
		}
		if !fresh {
			return nil
		}
		var wg sync.WaitGroup
		work := make(chan string)
		for range 4 {
			wg.Go(func() {
				for name := range work {
					l.device(name)
				}
			})
		}
		for _, n := range names {
			if ctx.Err() != nil {
				break
			}
			work <- n
		}
		close(work)
		wg.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// device loads what fits a device.
func (l *Loader) device(modalias string) {
	for _, name := range l.index.Match(modalias) {
		// That a driver finds no device of its own is how drivers for a whole
		// family of processors or boards answer.
		if err := l.loadAll(name); err != nil && !errors.Is(err, syscall.ENODEV) {
			l.log.Warn("a driver was not loaded", "module", name, "device", modalias, "err", err)
		}
	}
}

// eachDevice gives the name of every device below sys/devices. Devices that vanish
// meanwhile are passed over.
func eachDevice(sys string, f func(modalias string)) error {
	return filepath.WalkDir(filepath.Join(sys, "devices"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				return nil
			}
			return err
		}
		if d.Name() != "modalias" || !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return nil
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" {
				f(line)
			}
		}
		return nil
	})
}

// Watch loads the modules for devices that appear later, until ctx is done. It
// listens from before it returns.
func (l *Loader) Watch(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	f := os.NewFile(uintptr(fd), "uevents") // of the runtime's poller, so Close ends a Read
	context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		buf := make([]byte, 16<<10)
		for {
			n, err := f.Read(buf)
			switch {
			case errors.Is(err, syscall.ENOBUFS): // events were lost: look at everything
				if err := l.Coldplug(ctx); err != nil {
					return
				}
			case errors.Is(err, syscall.EINTR):
			case err != nil:
				return
			default:
				if name := addedDevice(buf[:n]); name != "" {
					l.device(name)
				}
			}
		}
	}()
	return nil
}

// addedDevice is the name of a device that an event of the kernel says is new: the
// head "add@/devices/...", then "KEY=value", a zero after each.
func addedDevice(event []byte) string {
	head, rest, _ := bytes.Cut(event, []byte{0})
	if !bytes.HasPrefix(head, []byte("add@")) {
		return ""
	}
	for kv := range bytes.SplitSeq(rest, []byte{0}) {
		if v, ok := bytes.CutPrefix(kv, []byte("MODALIAS=")); ok {
			return string(v)
		}
	}
	return ""
}
