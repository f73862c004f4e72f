package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"holdfast/sfu"
)

// Connections of clients are handed to the relay's process as one end of a socket
// pair each, with the client's address beside it. So no socket of the relay has a
// name that another program could connect to.

// parcel tells what a connection is, in the message that carries it.
type parcel struct {
	Kind  string         `json:"kind"`
	From  netip.AddrPort `json:"from"`  // the client
	To    netip.AddrPort `json:"to"`    // where it came to
	Reach sfu.Reach      `json:"reach"` // of kindSignal
}

const maxParcel = 4 << 10 // bytes

// pair makes two connected sockets. network is "unix" or "unixpacket".
func pair(network string) (here *net.UnixConn, there *os.File, err error) {
	kind := syscall.SOCK_STREAM
	if network == "unixpacket" {
		kind = syscall.SOCK_SEQPACKET
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	there = os.NewFile(uintptr(fds[1]), "relay")
	here, err = fileConn(os.NewFile(uintptr(fds[0]), "relay"))
	if err != nil {
		there.Close()
		return nil, nil, err
	}
	return here, there, nil
}

// fileConn takes over a file that is a socket.
func fileConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%s is no unix socket", f.Name())
	}
	return u, nil
}

// hand makes a connection whose other end the relay's process gets.
func hand(to *net.UnixConn, p parcel) (net.Conn, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	if len(b) > maxParcel {
		return nil, errors.New("the name by which the client knows the server is too long")
	}
	here, there, err := pair("unix")
	if err != nil {
		return nil, err
	}
	defer there.Close()
	to.SetWriteDeadline(time.Now().Add(writeTime))
	if _, _, err := to.WriteMsgUnix(b, syscall.UnixRights(int(there.Fd())), nil); err != nil {
		here.Close()
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	return here, nil
}

// take receives what hand sent. It returns an error when nothing more comes.
func take(from *net.UnixConn) (parcel, net.Conn, error) {
	b, oob := make([]byte, maxParcel), make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := from.ReadMsgUnix(b, oob)
	if err != nil {
		return parcel{}, nil, err
	}
	if n == 0 && oobn == 0 {
		return parcel{}, nil, net.ErrClosed
	}
	list, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(list) != 1 {
		return parcel{}, nil, errors.Join(errors.New("a connection was handed over without its socket"), err)
	}
	fds, err := syscall.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		return parcel{}, nil, errors.Join(errors.New("a connection was handed over without its socket"), err)
	}
	syscall.CloseOnExec(fds[0])
	c, err := fileConn(os.NewFile(uintptr(fds[0]), "handed"))
	if err != nil {
		return parcel{}, nil, err
	}
	var p parcel
	if err := json.Unmarshal(b[:n], &p); err != nil {
		c.Close()
		return parcel{}, nil, err
	}
	return p, &handed{c, net.TCPAddrFromAddrPort(p.From), net.TCPAddrFromAddrPort(p.To), p.Reach}, nil
}

// handed is a connection that another process accepted.
type handed struct {
	*net.UnixConn
	from, to net.Addr
	reach    sfu.Reach
}

// LocalAddr is the address of this machine that the client came to.
func (h *handed) LocalAddr() net.Addr { return h.to }

// RemoteAddr is the client's address.
func (h *handed) RemoteAddr() net.Addr { return h.from }

// queue is a listener of connections that are put into it.
type queue struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue() *queue { return &queue{conns: make(chan net.Conn), done: make(chan struct{})} }

func (q *queue) put(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return &net.UnixAddr{Name: "relay", Net: "unix"} }
