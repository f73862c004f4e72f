package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// ARP for IPv4 over Ethernet (RFC 826), as far as conflict detection needs it.
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

var broadcastMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}

type arpPacket struct {
	op                   uint16
	senderMAC, targetMAC net.HardwareAddr
	sender, target       netip.Addr
}

func (p arpPacket) bytes() []byte {
	b := make([]byte, 0, arpLen)
	b = binary.BigEndian.AppendUint16(b, 1) // Ethernet
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, p.op)
	s, t := p.sender.As4(), p.target.As4()
	b = append(append(b, p.senderMAC...), s[:]...)
	return append(append(b, p.targetMAC...), t[:]...)
}

func parseARP(b []byte) (arpPacket, bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP || b[4] != 6 || b[5] != 4 {
		return arpPacket{}, false
	}
	return arpPacket{
		op:        binary.BigEndian.Uint16(b[6:]),
		senderMAC: bytes.Clone(b[8:14]), sender: netip.AddrFrom4([4]byte(b[14:18])),
		targetMAC: bytes.Clone(b[18:24]), target: netip.AddrFrom4([4]byte(b[24:28])),
	}, true
}

// watcher sees the ARP of one port: it finds out whether an address is free before
// it is used, and whether another machine uses it later.
type watcher struct {
	name string
	mac  net.HardwareAddr
	// ours tells the hardware addresses of this machine.
	ours func(net.HardwareAddr) bool
	// conflict is told each other machine that uses an address that is held.
	conflict func(netip.Addr, net.HardwareAddr)

	mu      sync.Mutex
	conn    *packet.Conn
	held    map[netip.Addr]bool
	waiting map[netip.Addr]chan net.HardwareAddr
}

func newWatcher(name string, mac net.HardwareAddr) *watcher {
	return &watcher{name: name, mac: mac, held: map[netip.Addr]bool{}, waiting: map[netip.Addr]chan net.HardwareAddr{}}
}

// open opens the socket, so that run and what sends can use it.
func (w *watcher) open() error {
	ifi, err := net.InterfaceByName(w.name)
	if err != nil {
		return err
	}
	conn, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return fmt.Errorf("%s: listening to ARP: %w", w.name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.Close()
	}
	w.conn = conn
	return nil
}

func (w *watcher) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.conn.Close()
	})
	defer stop()
	buf := make([]byte, 256)
	for ctx.Err() == nil {
		w.mu.Lock()
		conn := w.conn
		w.mu.Unlock()
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			// A port that goes down says so once; the socket works on after that.
			if !errors.Is(err, unix.ENETDOWN) {
				pause(ctx, time.Second)
				if ctx.Err() == nil {
					_ = w.open() // tried again after the next error
				}
			}
			continue
		}
		if p, ok := parseARP(buf[:n]); ok {
			w.saw(p)
		}
	}
}

func (w *watcher) saw(p arpPacket) {
	if w.ours(p.senderMAC) {
		return
	}
	w.mu.Lock()
	ch, asked := w.waiting[p.sender]
	if !asked && p.sender.IsUnspecified() {
		// Another machine probes for the address that is being probed here.
		if c, probing := w.waiting[p.target]; probing && p.op == arpRequest {
			ch, asked = c, true
		}
	}
	held := w.held[p.sender]
	w.mu.Unlock()
	if asked {
		select {
		case ch <- p.senderMAC:
		default:
		}
	}
	if held && w.conflict != nil {
		w.conflict(p.sender, p.senderMAC)
	}
}

func (w *watcher) send(p arpPacket) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.conn.WriteTo(p.bytes(), &packet.Addr{HardwareAddr: broadcastMAC})
	return err
}

// Probing is as in RFC 5227, with shorter times: a machine should not take nine
// seconds to get on a network, and those that answer do so at once.
const (
	probes     = 3
	probePause = 200 * time.Millisecond
	probeWait  = 400 * time.Millisecond
)

// ask sends what make gives some times, and waits for an answer about an address.
// nil: none came.
func (w *watcher) ask(ctx context.Context, about netip.Addr, p arpPacket) (net.HardwareAddr, error) {
	ch := make(chan net.HardwareAddr, 1)
	w.mu.Lock()
	w.waiting[about] = ch
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, about)
	}()
	for i := range probes {
		if err := w.send(p); err != nil {
			return nil, err
		}
		wait := probePause + rand.N(probePause/4)
		if i == probes-1 {
			wait = probeWait
		}
		t := time.NewTimer(wait)
		select {
		case mac := <-ch:
			t.Stop()
			return mac, nil
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
	return nil, nil
}

// probe finds out who uses an address; nil: nobody answered.
func (w *watcher) probe(ctx context.Context, a netip.Addr) (net.HardwareAddr, error) {
	return w.ask(ctx, a, arpPacket{op: arpRequest, senderMAC: w.mac, sender: netip.IPv4Unspecified(), targetMAC: make(net.HardwareAddr, 6), target: a})
}

// find asks for the hardware address of another machine on behalf of an address
// that need not be configured; nil: nobody answered.
func (w *watcher) find(ctx context.Context, from, a netip.Addr) (net.HardwareAddr, error) {
	return w.ask(ctx, a, arpPacket{op: arpRequest, senderMAC: w.mac, sender: from, targetMAC: make(net.HardwareAddr, 6), target: a})
}

// announce tells everybody who has the address now.
func (w *watcher) announce(a netip.Addr) error {
	return w.send(arpPacket{op: arpRequest, senderMAC: w.mac, sender: a, targetMAC: make(net.HardwareAddr, 6), target: a})
}

func (w *watcher) hold(a netip.Addr, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if on {
		w.held[a] = true
	} else {
		delete(w.held, a)
	}
}

// pause waits; false: the context ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
