package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
)

// lease6 is what a DHCPv6 server gave (RFC 8415).
type lease6 struct {
	reply  *dhcpv6.Message
	addrs  []*dhcpv6.OptIAAddress
	asked  time.Time
	t1, t2 time.Duration
	valid  time.Duration
}

// dhcp6 keeps addresses by DHCPv6, besides those by router advertisements.
func (r *runner) dhcp6() {
	bound := map[netip.Addr]*binding{}
	drop := func(keep map[netip.Addr]bool) {
		for a, b := range bound {
			if !keep[a] {
				r.unbind(b)
				delete(bound, a)
			}
		}
	}
	defer func() {
		if !r.keeping() {
			drop(nil)
		}
	}()
	var l *lease6
	wait := r.m.o.firstWait
	for r.ctx.Err() == nil {
		next, err := r.next6(l, wait)
		if r.ctx.Err() != nil {
			return
		}
		if err != nil {
			if l != nil && time.Since(l.asked) >= l.valid || errors.Is(err, errNAK) {
				drop(nil)
				l = nil
			}
			if l == nil && wait > r.m.o.firstWait {
				r.report("dhcp6", "no DHCPv6 server answers: check that one is on this network, or set the IPv6 method to \"auto\"")
			}
			wait = min(2*wait, maxRetry)
		} else {
			l, wait = next, r.m.o.firstWait
			r.report("dhcp6", "")
			keep := map[netip.Addr]bool{}
			for _, x := range l.addrs {
				a, ok := netip.AddrFromSlice(x.IPv6Addr)
				if !ok || !usable(a) || a.Is4In6() || a.IsLinkLocalUnicast() {
					continue
				}
				keep[a] = true
				b := &binding{prefix: netip.PrefixFrom(a, 128), source: "dhcp"}
				if err := r.bind(bound[a], *b, x.ValidLifetime); err != nil {
					r.report("dhcp6", "%v", err)
					continue
				}
				bound[a] = b
			}
			drop(keep)
			d := l.resolver()
			r.m.mu.Lock()
			r.dns6 = d
			r.m.mu.Unlock()
			r.m.poke()
		}
		pauseFor := wait
		if l != nil {
			pauseFor = max(time.Second, l.t1-time.Since(l.asked))
			if err != nil {
				pauseFor = max(time.Second, min(wait, l.valid-time.Since(l.asked)))
			}
		}
		t := time.NewTimer(pauseFor)
		select {
		case <-r.ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// next6 gets a lease, or renews the one that there is.
func (r *runner) next6(l *lease6, wait time.Duration) (*lease6, error) {
	c, err := nclient6.New(r.unit.name, nclient6.WithTimeout(maxRetry))
	if err != nil {
		return nil, err // no link-local address yet
	}
	defer c.Close()
	duid := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: r.w.mac}
	asked := time.Now()
	ctx, cancel := context.WithTimeout(r.ctx, wait)
	defer cancel()
	if l == nil {
		adv, err := c.Solicit(ctx, dhcpv6.WithClientID(duid))
		if err != nil {
			return nil, err
		}
		// The time may be over by now; the answer to a request counts as much.
		ctx, cancel := context.WithTimeout(r.ctx, 2*r.m.o.firstWait)
		defer cancel()
		reply, err := c.Request(ctx, adv, dhcpv6.WithClientID(duid))
		if err != nil {
			return nil, err
		}
		return toLease6(reply, asked)
	}
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(duid), dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList))
	if err != nil {
		return nil, err
	}
	m.MessageType = dhcpv6.MessageTypeRenew
	if time.Since(l.asked) >= l.t2 {
		m.MessageType = dhcpv6.MessageTypeRebind
	} else if id := l.reply.Options.ServerID(); id != nil {
		m.AddOption(dhcpv6.OptServerID(id))
	}
	m.AddOption(dhcpv6.OptElapsedTime(0))
	m.AddOption(l.reply.Options.OneIANA())
	reply, err := c.SendAndRead(ctx, c.RemoteAddr(), m, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
	if err != nil {
		return nil, err
	}
	return toLease6(reply, asked)
}

func toLease6(reply *dhcpv6.Message, asked time.Time) (*lease6, error) {
	if reply.MessageType != dhcpv6.MessageTypeReply {
		return nil, fmt.Errorf("the DHCPv6 server answered with %s", reply.MessageType)
	}
	ia := reply.Options.OneIANA()
	if s := reply.Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		return nil, errNAK
	}
	if ia == nil {
		return nil, errors.New("the DHCPv6 server gave no address")
	}
	if s := ia.Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		return nil, errNAK
	}
	l := &lease6{reply: reply, asked: asked, t1: ia.T1, t2: ia.T2}
	for _, a := range ia.Options.Addresses() {
		if a.ValidLifetime > 0 && len(l.addrs) < maxAddresses {
			l.addrs = append(l.addrs, a)
			l.valid = max(l.valid, a.ValidLifetime)
		}
	}
	if len(l.addrs) == 0 {
		return nil, errNAK
	}
	if l.t1 <= 0 || l.t1 >= l.valid {
		l.t1 = l.valid / 2
	}
	if l.t2 <= l.t1 || l.t2 >= l.valid {
		l.t2 = l.t1 + (l.valid-l.t1)/2
	}
	return l, nil
}

// resolver is what the server says about DNS. What of it is good is found out where
// it is merged.
func (l *lease6) resolver() resolver {
	var d resolver
	for _, s := range l.reply.Options.DNS() {
		if a, ok := netip.AddrFromSlice(s); ok && len(d.servers) < maxServers {
			d.servers = append(d.servers, a)
		}
	}
	if s := l.reply.Options.DomainSearchList(); s != nil {
		d.search = s.Labels
	}
	return d
}
