// Package preview fetches web pages and finds in them what a preview of a link
// shows: title, description and picture.
//
// Invariants: an address is looked at when the connection to it is made, after its
// name was resolved, and at each redirect anew, so a page can only be on the Internet
// or where an administrator allowed it; each request is bounded in time, in bytes (as
// sent and as unpacked) and in redirects; nothing of the person who asks goes along
// but two languages; nothing that is told of a page makes its reader's client contact
// another host.
package preview

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/text/language"
)

// Kind says why there is no preview.
type Kind string

// The kinds.
const (
	BadURL      Kind = "bad url"     // it is no address of a web page
	Refused     Kind = "refused"     // the rules forbid the host, the port or the address
	Unreachable Kind = "unreachable" // nothing answers there, or it is where a name must not lead
	BadStatus   Kind = "status"      // the answer is no success
	Slow        Kind = "slow"        // it took too long
	Redirects   Kind = "redirects"   // too many, or to what is no web page
	Unreadable  Kind = "unreadable"  // too large, or packed in a way that is not known
)

// Error is why there is no preview. Msg is for the person who asked; Err, which may
// be nil, has the details for an administrator.
type Error struct {
	Kind Kind
	Msg  string
	Err  error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Msg + " (" + e.Err.Error() + ")"
	}
	return e.Msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// messages are what a person is told who asks again while a failure is remembered.
var messages = map[Kind]string{
	Refused:     "This server may not fetch this page.",
	Unreachable: "The page cannot be reached from this server.",
	BadStatus:   "The page could not be fetched: its server answered with an error.",
	Slow:        "The page could not be fetched: its server is too slow.",
	Redirects:   "The page could not be fetched: it leads on too often, or to what is no web page.",
	Unreadable:  "The page could not be read: it is too large, or packed in an unknown way.",
}

// Failure is the error of a kind that is remembered.
func Failure(k Kind) *Error {
	msg := messages[k]
	if msg == "" {
		k, msg = Unreachable, messages[Unreachable]
	}
	return &Error{Kind: k, Msg: msg}
}

func fail(k Kind, err error) *Error {
	e := Failure(k)
	e.Err = err
	return e
}

// Rules say where pages may be fetched from.
type Rules struct {
	Allow   Hosts // only these; empty: all
	Deny    Hosts // not these
	Private Hosts // these also at addresses of private networks
	Ports   []int // further ports than 80 and 443
}

// port reports whether a port may be asked.
func (r Rules) port(n int) bool { return n == 80 || n == 443 || slices.Contains(r.Ports, n) }

// Hosts are hosts by their names, by "*." and a name (all names below it), by
// addresses, or by ranges of them such as 10.0.0.0/8.
type Hosts struct {
	names  map[string]bool
	below  []string // ".example.org"
	ranges []netip.Prefix
}

// ParseHosts reads a list of hosts. Errors name the entry.
func ParseHosts(list []string) (h Hosts, err error) {
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			if p.Addr().Is4In6() { // addresses are compared in their short form
				return h, &hostError{s, "write the IPv4 range as such"}
			}
			h.ranges = append(h.ranges, p.Masked())
			continue
		}
		if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil && a.Zone() == "" {
			a = a.Unmap()
			h.ranges = append(h.ranges, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		name, below := strings.CutPrefix(s, "*.")
		name, err := hostName(name)
		if err != nil {
			return h, &hostError{s, "write a host name such as wiki.example.org, *.example.org for all names below it, an IP address, or a range such as 10.1.0.0/16"}
		}
		if below {
			h.below = append(h.below, "."+name)
			continue
		}
		if h.names == nil {
			h.names = map[string]bool{}
		}
		h.names[name] = true
	}
	return h, nil
}

type hostError struct{ host, why string }

func (e *hostError) Error() string { return "\"" + e.host + "\" is no host; " + e.why }

// Empty reports whether there is no entry.
func (h Hosts) Empty() bool { return len(h.names)+len(h.below)+len(h.ranges) == 0 }

// Has reports whether a host, as ParseURL leaves it, is among them.
func (h Hosts) Has(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return h.HasAddr(a)
	}
	return h.names[host] || slices.ContainsFunc(h.below, func(end string) bool { return strings.HasSuffix(host, end) })
}

// HasAddr reports whether an address is among them.
func (h Hosts) HasAddr(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(h.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Language is the language that a page is asked for, of the Accept-Language that
// came: the first one, so that the host learns little of who asks. "": any.
func Language(header string) string {
	if len(header) > 500 {
		header = header[:strings.LastIndex(header[:500], ",")+1]
	}
	tags, _, err := language.ParseAcceptLanguage(strings.TrimSuffix(header, ","))
	if err != nil || len(tags) == 0 {
		return ""
	}
	base, _, region := tags[0].Raw()
	switch {
	case base.String() == "und" || base.String() == "mul":
		return ""
	case region.String() == "ZZ": // it names none
		return base.String()
	}
	return base.String() + "-" + region.String()
}

// KindOf is the kind of an error of this package, or Unreachable.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Unreachable
}
