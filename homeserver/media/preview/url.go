package preview

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxURL is the longest address in bytes.
const maxURL = 4096

func badURL(msg string) *Error { return &Error{Kind: BadURL, Msg: msg} }

// ParseURL reads the address of a web page and writes it in one way: the host in
// small letters and ASCII, no standard port, no fragment. Errors: *Error of kind BadURL.
func ParseURL(raw string) (*url.URL, error) {
	switch {
	case len(raw) > maxURL:
		return nil, badURL("The address is longer than " + strconv.Itoa(maxURL) + " bytes.")
	case !utf8.ValidString(raw):
		return nil, badURL("The address is not UTF-8.")
	case strings.ContainsFunc(raw, unicode.IsControl):
		return nil, badURL("The address has a control character in it.")
	}
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil {
		return nil, badURL("This is no address of a web page.")
	}
	u.Scheme = strings.ToLower(u.Scheme)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, badURL("Only addresses with http or https have a preview.")
	case u.User != nil:
		return nil, badURL("The address has a user name or password in it. Take them out.")
	case u.Opaque != "" || u.Host == "":
		return nil, badURL("The address names no host.")
	}
	host, err := hostName(u.Hostname())
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, badURL("The address has a port that there is not.")
		}
		if port = strconv.FormatUint(n, 10); port == standardPort(u.Scheme) {
			port = ""
		}
	}
	switch {
	case port != "":
		u.Host = net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		u.Host = "[" + host + "]"
	default:
		u.Host = host
	}
	u.Fragment, u.RawFragment, u.ForceQuery = "", "", false
	if u.Path == "" {
		u.Path, u.RawPath = "/", ""
	}
	if len(u.String()) > 3*maxURL { // what had to be escaped
		return nil, badURL("The address is too long.")
	}
	return u, nil
}

func standardPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// portOf is the port that an address of ParseURL is asked at.
func portOf(u *url.URL) int {
	p := u.Port()
	if p == "" {
		p = standardPort(u.Scheme)
	}
	n, _ := strconv.Atoi(p)
	return n
}

// forHosts maps what people type to what the name service is asked. Underscores are
// let through: there are hosts with them.
var forHosts = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(false))

// hostName writes a host in one way: an IP address, or a name in small ASCII letters.
// What only looks like an IPv4 address (0x7f.1, 2130706433) is refused, since programs
// differ in what they take it for. Errors: *Error of kind BadURL.
func hostName(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return "", badURL("An address in the web has no zone.")
		}
		return a.Unmap().String(), nil
	}
	none := badURL("The address names no host that there can be.")
	s, err := forHosts.ToASCII(s)
	if err != nil {
		return "", none
	}
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	if s == "" || len(s) > 253 {
		return "", none
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() { // written in other digits
		return a.String(), nil
	}
	var last string
	for last = range strings.SplitSeq(s, ".") {
		if last == "" || len(last) > 63 {
			return "", none
		}
		for _, c := range []byte(last) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return "", none
			}
		}
	}
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == "" {
		return "", none
	}
	return s, nil
}
