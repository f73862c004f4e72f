package network

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel does what routers advertise about addresses and routes. DNS servers
// and search domains (RFC 8106) it hands on.
const (
	ndRDNSS   = 25
	ndDNSSL   = 31
	icmpRA    = 134
	ndHeader  = 16 // struct nduseroptmsg
	groupND   = 20 // RTNLGRP_ND_USEROPT
	maxFromRA = 8
)

// routers listens to what routers advertise about DNS.
func (m *Manager) routers() {
	for m.ctx.Err() == nil {
		s, err := nl.Subscribe(unix.NETLINK_ROUTE, groupND)
		if err != nil {
			m.log.Warn("network: routers' DNS servers are not heard", "error", err)
			return
		}
		// Receive has no other way to end.
		_ = s.SetReceiveTimeout(&unix.Timeval{Sec: 1})
		for m.ctx.Err() == nil {
			msgs, _, err := s.Receive()
			if err == unix.EAGAIN || err == unix.EINTR {
				m.forgetOld()
				continue
			}
			if err != nil {
				m.log.Warn("network: the kernel's messages about routers", "error", err)
				pause(m.ctx, time.Second)
				break
			}
			for _, x := range msgs {
				if x.Header.Type == unix.RTM_NEWNDUSEROPT {
					if o, ok := parseND(x.Data); ok {
						m.heard(o)
					}
				}
			}
		}
		s.Close()
	}
}

// ndOption is what a router says about DNS.
type ndOption struct {
	index   int
	life    time.Duration
	servers []netip.Addr
	search  []string
}

func parseND(b []byte) (ndOption, bool) {
	var o ndOption
	if len(b) < ndHeader || b[0] != unix.AF_INET6 || b[8] != icmpRA {
		return o, false
	}
	n := int(binary.NativeEndian.Uint16(b[2:]))
	o.index = int(int32(binary.NativeEndian.Uint32(b[4:])))
	b = b[ndHeader:]
	if n > len(b) || n < 8 {
		return o, false
	}
	b = b[:n]
	if int(b[1])*8 > len(b) || b[1] == 0 {
		return o, false
	}
	b = b[:int(b[1])*8]
	o.life = time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second
	switch b[0] {
	case ndRDNSS:
		for b = b[8:]; len(b) >= 16 && len(o.servers) < maxFromRA; b = b[16:] {
			if a := netip.AddrFrom16([16]byte(b[:16])); usable(a) && !a.Is4In6() && !a.IsLinkLocalUnicast() {
				o.servers = append(o.servers, a)
			}
		}
	case ndDNSSL:
		b = b[8:]
		var labels []string
		for len(b) > 0 && len(o.search) < maxFromRA {
			l := int(b[0])
			if l+1 > len(b) || l > 63 {
				break
			}
			if l > 0 {
				labels = append(labels, string(b[1:l+1]))
			} else if len(labels) > 0 {
				if d := strings.Join(labels, "."); validDomain(d) {
					o.search = append(o.search, d)
				}
				labels = nil
			}
			b = b[l+1:]
		}
	default:
		return o, false
	}
	return o, true
}

func (m *Manager) heard(o ndOption) {
	m.mu.Lock()
	r := m.runners[o.index]
	if r == nil || r.unit.v6.Method != Auto && r.unit.v6.Method != DHCP {
		m.mu.Unlock()
		return
	}
	until := time.Now().Add(o.life)
	if m.ra[o.index] == nil {
		m.ra[o.index], m.raSearch[o.index] = map[netip.Addr]time.Time{}, map[string]time.Time{}
	}
	for _, a := range o.servers {
		if _, known := m.ra[o.index][a]; known || len(m.ra[o.index]) < maxFromRA {
			m.ra[o.index][a] = until
		}
	}
	for _, d := range o.search {
		if _, known := m.raSearch[o.index][d]; known || len(m.raSearch[o.index]) < maxFromRA {
			m.raSearch[o.index][d] = until
		}
	}
	m.mu.Unlock()
	m.poke()
}

// forgetOld drops what is no longer advertised.
func (m *Manager) forgetOld() {
	now, gone := time.Now(), false
	m.mu.Lock()
	for _, list := range m.ra {
		for a, until := range list {
			if until.Before(now) {
				delete(list, a)
				gone = true
			}
		}
	}
	for _, list := range m.raSearch {
		for d, until := range list {
			if until.Before(now) {
				delete(list, d)
				gone = true
			}
		}
	}
	m.mu.Unlock()
	if gone {
		m.poke()
	}
}
