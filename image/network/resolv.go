package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// resolver is what DNS is asked with.
type resolver struct {
	servers []netip.Addr
	search  []string
}

// merge adds what another source says, without what is there.
func (r *resolver) merge(o resolver) {
	for _, a := range o.servers {
		if len(r.servers) < maxServers && usable(a) && !slices.Contains(r.servers, a) {
			r.servers = append(r.servers, a)
		}
	}
	for _, d := range o.search {
		d = strings.ToLower(strings.TrimSuffix(d, "."))
		// These come from the network: anything else could add lines to the file.
		if len(r.search) < maxSearch && validDomain(d) && !slices.Contains(r.search, d) {
			r.search = append(r.search, d)
		}
	}
}

// file is resolv.conf. Go's resolver reads it anew when it has changed.
func (r resolver) file() []byte {
	var b strings.Builder
	b.WriteString("# Written by Holdfast from the network's configuration.\n")
	for _, a := range r.servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(r.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.search, " "))
	}
	b.WriteString("options timeout:2 attempts:2\n")
	return []byte(b.String())
}
