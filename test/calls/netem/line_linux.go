package netem

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxWaiting is how many packets may be under way in one direction.
const maxWaiting = 8192

const defaultMTU = 1500

// End is one end of a line: an interface in a namespace.
type End struct {
	Namespace string // as in `ip netns`
	Interface string // to be made
	Address   string // with prefix length
	MTU       int    // 0: 1500
}

// Line joins two namespaces. Close ends it.
type Line struct {
	tun  [2]*os.File
	pipe [2]*pipe // [0]: from the first end to the second
	wg   sync.WaitGroup
}

type packet struct {
	at time.Time
	b  []byte
}

type pipe struct {
	*shaper
	waiting chan packet
}

// Join makes an interface in each of the two namespaces and carries packets between
// them. There are no rules at first. It needs root, and ip(8).
func Join(seed uint64, a, b End) (*Line, error) {
	l := &Line{}
	for i, e := range []End{a, b} {
		f, err := tunnel(e)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("netem: %s in %s: %w", e.Interface, e.Namespace, err)
		}
		l.tun[i] = f
		l.pipe[i] = &pipe{newShaper(seed+uint64(i), Rules{}), make(chan packet, maxWaiting)}
	}
	for i, p := range l.pipe {
		l.wg.Go(func() { p.read(l.tun[i]) })
		l.wg.Go(func() { p.write(l.tun[1-i]) })
	}
	return l, nil
}

// tunnel makes a TUN interface, and moves it: the file goes on to read what is sent
// through it, wherever it is.
func tunnel(e End) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// It has its name in its namespace only: here an interface of that name may exist.
	req, err := unix.NewIfreq("hfline%d")
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	here := req.Name() // the kernel put a number in
	f := os.NewFile(uintptr(fd), e.Interface)
	in := []string{"-n", e.Namespace}
	for _, args := range [][]string{
		{"link", "set", here, "netns", e.Namespace, "name", e.Interface},
		append(in, "addr", "add", e.Address, "dev", e.Interface),
		// Without an address of its own making, the kernel sends nothing of itself, and
		// a seed's losses fall on the same packets each time.
		append(in, "link", "set", e.Interface, "addrgenmode", "none"),
		append(in, "link", "set", e.Interface, "mtu", fmt.Sprint(cmp.Or(e.MTU, defaultMTU)), "up"),
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			f.Close()
			return nil, fmt.Errorf("ip %v: %w %s", args, err, out)
		}
	}
	return f, nil
}

func (p *pipe) read(from *os.File) {
	defer close(p.waiting)
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if errors.Is(err, os.ErrClosed) || (err != nil && n == 0 && !errors.Is(err, unix.EIO)) {
			return
		}
		if err != nil { // the interface is down
			time.Sleep(10 * time.Millisecond)
			continue
		}
		at, ok := p.take(time.Now(), n)
		if !ok {
			continue
		}
		select {
		case p.waiting <- packet{at, append([]byte(nil), b[:n]...)}:
		default:
			p.mu.Lock()
			p.counts.Dropped++
			p.mu.Unlock()
		}
	}
}

func (p *pipe) write(to *os.File) {
	for x := range p.waiting {
		time.Sleep(time.Until(x.at))
		to.Write(x.b) // fails where the other end is down: then it is lost
	}
}

// Set gives both directions new rules. What is under way keeps the old ones.
func (l *Line) Set(r Rules) {
	for _, p := range l.pipe {
		p.set(r)
	}
}

// SetTo gives new rules to what goes to one end, 0 or 1.
func (l *Line) SetTo(end int, r Rules) { l.pipe[1-end].set(r) }

// CountsTo tells what became of the packets to one end, 0 or 1.
func (l *Line) CountsTo(end int) Counts {
	p := l.pipe[1-end]
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Close takes both interfaces away.
func (l *Line) Close() {
	for _, f := range l.tun {
		if f != nil {
			f.Close()
		}
	}
	l.wg.Wait()
}
