package appliance

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestPublicAddresses(t *testing.T) {
	for _, s := range []string{"1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:1.1.1.1", "2a00:1450:4001::1"} {
		if !public(netip.MustParseAddr(s)) {
			t.Errorf("%s is public", s)
		}
	}
	for _, s := range []string{"127.0.0.1", "10.0.0.1", "172.16.1.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
		"::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:db8::1", "fec0::1",
		"::7f00:1", "::a00:1", "2001::1", "3fff::1", "5f00::1", "64:ff9b:1::1", "192.88.99.1"} {
		if public(netip.MustParseAddr(s)) {
			t.Errorf("%s is not public", s)
		}
	}
}

func TestOutboundStaysOutOfPrivateNetworks(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	if _, err := outbound(false).Get(srv.URL); !errors.Is(err, errPrivate) {
		t.Errorf("want errPrivate, got %v", err)
	}
	resp, err := outbound(true).Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestElsewhere(t *testing.T) {
	if !elsewhere(netip.MustParseAddr("2606:4700::1111")) || !elsewhere(netip.MustParseAddr("1.1.1.1")) {
		t.Error("the Internet is elsewhere")
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		a, ok := netip.AddrFromSlice(n.(*net.IPNet).IP)
		if !ok || elsewhere(a) {
			t.Errorf("%s is this machine", n)
		}
	}
}
