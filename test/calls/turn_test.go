package calls

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"

	"holdfast/appliance/appliancetest"
)

// The credentials that clients get for calls which they set up by themselves are
// good for the built-in TURN server, by one of the addresses that come with them.
func TestTURNServer(t *testing.T) {
	h := openHouse(t)
	alice := h.Login(t, "alice")
	var out struct {
		Username, Password string
		URIs               []string
		TTL                int
	}
	if code := alice.Do(t, "GET", "/_matrix/client/v3/voip/turnServer", nil, &out); code != 200 {
		t.Fatal(code)
	}
	if out.TTL < 60 || len(out.URIs) == 0 || !strings.Contains(out.Username, alice.ID) {
		t.Fatalf("%+v", out)
	}
	made := false
	for _, uri := range out.URIs {
		at, ok := strings.CutPrefix(uri, "turn:")
		at, query, _ := strings.Cut(at, "?")
		if !ok || query != "transport=udp" {
			t.Errorf("%s is no address of a TURN server over UDP", uri)
			continue
		}
		pc, err := net.ListenPacket("udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		c, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: at, TURNServerAddr: at, Conn: pc, Username: out.Username, Password: out.Password,
			RTO: 50 * time.Millisecond, LoggerFactory: logging.NewDefaultLoggerFactory()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Listen(); err != nil {
			t.Fatal(err)
		}
		relay, err := c.Allocate()
		if err != nil {
			t.Logf("%s: %v", uri, err) // as from an address on which the relay does not listen
			continue
		}
		made = true
		relay.Close()
	}
	if !made {
		t.Errorf("no allocation could be made at any of %v", out.URIs)
	}
}

// Where there is no TURN server, clients are told so by an empty object.
func TestNoTURNServer(t *testing.T) {
	h := appliancetest.Start(t, "sfu.enabled=false")
	out := map[string]any{}
	if code := h.Login(t, "alice").Do(t, "GET", "/_matrix/client/v3/voip/turnServer", nil, &out); code != 200 || len(out) != 0 {
		t.Errorf("%d %v", code, out)
	}
}
