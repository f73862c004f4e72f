package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"holdfast/sfu"
	"holdfast/web"
)

// callTestTime bounds a test of all hops: they are tried at the same time.
const callTestTime = 25 * time.Second

// TestCalls implements web.CallDesk: it tries each hop of a call by itself, as a client
// on this machine, and says of what does not work what to do.
func (a console) TestCalls(ctx context.Context) ([]web.Check, error) { return a.testCalls(ctx) }

// browserTestTime is how long the tokens of a test from a browser last.
const browserTestTime = 2 * time.Minute

// BrowserTest implements web.CallDesk. Each way has a room of its own: what one does
// not get is nobody else's matter.
func (a console) BrowserTest(ctx context.Context) (out web.BrowserTest, err error) {
	if a.sfu == nil {
		return out, errCallsOff
	}
	out.Tokens = map[string]string{}
	for _, way := range []sfu.Path{sfu.PathUDP, sfu.PathTCP, sfu.PathTURN, sfu.PathHTTPS} {
		room := sfu.NewTestRoom()
		if err := a.sfu.EnsureRoom(ctx, room); err != nil {
			return out, callError(err)
		}
		if out.Tokens[string(way)], err = a.sfu.Mint(ctx, room, "browser", "", browserTestTime); err != nil {
			return out, callError(err)
		}
	}
	ports := a.sfu.Ports()
	out.UDP, out.TCP, out.TURN, out.Addresses = ports.UDP, ports.TCP, ports.TURN, a.sfu.Addresses()
	return out, nil
}

var errCallsOff = &web.Error{Status: 409, Code: "off", Message: "Calls are switched off here (sfu.enabled)."}

func (a *Appliance) testCalls(ctx context.Context) ([]web.Check, error) {
	if a.sfu == nil {
		return nil, errCallsOff
	}
	// The self-test's account would be the first, and fix the server's name.
	if st, err := (setup{a}).State(ctx); err != nil || !st.Claimed() {
		return nil, errors.Join(err, &web.Error{Status: 409, Code: "unclaimed", Message: "Calls can be tried once the appliance is set up."})
	}
	ctx, cancel := context.WithTimeout(ctx, callTestTime)
	defer cancel()
	begun := time.Now()
	token := web.Check{Name: "token", OK: true, Detail: "A member of a room was given the right to join its call."}
	if err := a.testToken(ctx); err != nil {
		token.OK, token.Detail = false, "No right to join a call was given: "+err.Error()+". Look at the appliance's log for the components identity and homeserver."
	}
	token.MS = time.Since(begun).Milliseconds()
	t, note := a.callTrial(ctx)
	hops, err := a.sfu.Hops(ctx, t)
	if err != nil {
		hops = nil
		for _, name := range []string{sfu.HopSignalling, sfu.HopUDP, sfu.HopTCP, sfu.HopTURN, sfu.HopHTTPS} {
			hops = append(hops, sfu.Hop{Name: name, Fault: sfu.FaultStart, Detail: err.Error()})
		}
	}
	w := a.hopWords(t, note)
	out := []web.Check{token}
	for _, h := range hops {
		c := web.Check{Name: h.Name, OK: h.OK || h.Skipped(), Skipped: h.Skipped(), MS: h.Took.Milliseconds(), Detail: w.good(h)}
		if !h.OK {
			c.Detail = w.wrong(h)
		}
		out = append(out, c)
	}
	return out, nil
}

// testToken asks the homeserver for a relay token, as a member of a room does.
func (a *Appliance) testToken(ctx context.Context) error {
	c, err := a.selfTestClient()
	if err != nil {
		return err
	}
	defer c.http.CloseIdleConnections()
	if err := c.login(ctx); err != nil {
		return err
	}
	err = c.callToken(ctx)
	if out := c.do(ctx, "POST", "/_matrix/client/v3/logout", nil, nil); out != nil {
		a.log.Warn("the self-test could not log out", "err", out)
	}
	return err
}

// callTrial says how clients reach signalling: by the address that people are told. note
// is what is different for this machine's client.
func (a *Appliance) callTrial(ctx context.Context) (t sfu.Trial, note string) {
	u, err := url.Parse(a.sharedURL())
	if err != nil {
		return t, ""
	}
	own := u.Host
	scheme := "ws"
	if u.Scheme == "https" {
		scheme = "wss"
	}
	t.URL = scheme + "://" + own + "/livekit/sfu"
	if ca := a.ownCA(); ca != nil {
		t.Roots = ca.CA()
	}
	// Other machines may know a name that this one does not.
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return t, ""
	}
	lookup, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := net.DefaultResolver.LookupHost(lookup, u.Hostname()); err == nil {
		return t, ""
	}
	want := map[string]string{"ws": "http", "wss": "https"}[scheme]
	for _, l := range a.listens {
		if l.name != want {
			continue
		}
		t.Dial = []string{l.ln.Addr().String()}
		if ap, err := netip.ParseAddrPort(t.Dial[0]); err == nil && ap.Addr().IsUnspecified() {
			t.Dial = []string{net.JoinHostPort("127.0.0.1", l.port()), net.JoinHostPort("::1", l.port())}
		}
		note = u.Hostname() + " is not a name that this machine knows, so its own listener was asked"
	}
	return t, note
}

// hopWords says in words how a hop went.
type hopWords struct {
	a        *Appliance
	at, note string
	ports    sfu.Ports
	told     string // addresses that clients are told of
}

func (a *Appliance) hopWords(t sfu.Trial, note string) hopWords {
	w := hopWords{a: a, note: note, ports: a.sfu.Ports(), told: strings.Join(a.sfu.Addresses(), ", ")}
	if u, err := url.Parse(t.URL); err == nil {
		w.at = u.Host
	}
	return w
}

// port is a hop's port and its setting.
func (w hopWords) port(hop string) (what, setting string, number, usual int, set bool) {
	c := w.a.cfg.SFU
	switch hop {
	case sfu.HopUDP:
		return "UDP port", "sfu.udp_port", w.ports.UDP, sfu.DefaultUDPPort, c.UDPPort != 0
	case sfu.HopTCP:
		return "TCP port", "sfu.tcp_port", w.ports.TCP, sfu.DefaultTCPPort, c.TCPPort != 0
	}
	return "UDP port", "sfu.turn_port", w.ports.TURN, sfu.DefaultTURNPort, c.TURNPort != 0
}

func (w hopWords) good(h sfu.Hop) string {
	switch h.Name {
	case sfu.HopSignalling:
		s := "A client came in by " + w.at + "."
		for _, note := range []string{w.note, h.Detail} {
			if note != "" {
				s += " Mind: " + note + "."
			}
		}
		return s
	case sfu.HopHTTPS:
		return "Two test clients heard each other through TURN over TLS at the HTTPS port."
	}
	what, setting, number, usual, set := w.port(h.Name)
	s := fmt.Sprintf("Two test clients heard each other through %s %d.", what, number)
	if h.Name == sfu.HopTURN {
		s = fmt.Sprintf("Two test clients heard each other through TURN at %s %d.", what, number)
	}
	if number != usual && !set {
		s += fmt.Sprintf(" The usual %d was taken by another program: open this one in firewalls, or stop that program. It may change at the next start; %s fixes it.", usual, setting)
	}
	return s
}

func (w hopWords) wrong(h sfu.Hop) string {
	switch {
	case h.Fault == sfu.FaultStart:
		return "The call relay is not running: " + h.Detail + ". Look at the appliance's log for the component sfu."
	case h.Name == sfu.HopSignalling:
		return w.signalling(h)
	case h.Fault == sfu.FaultOff:
		return "Not offered: clients do not reach the appliance's own HTTPS port, as behind a reverse proxy. Networks that let only HTTPS through cannot make calls then."
	case h.Fault == sfu.FaultDepends && h.Name == sfu.HopHTTPS && h.Detail == "":
		return "Not tried: clients are told of it by signalling, which fails."
	case h.Fault == sfu.FaultDepends:
		return "Not judged: TURN answers, but what it relays goes to the UDP port for media, which fails."
	case h.Fault == sfu.FaultSilent:
		return "A connection came about, but no sound. Look at the appliance's log for the component sfu."
	case h.Name == sfu.HopHTTPS:
		switch h.Fault {
		case sfu.FaultClosed, sfu.FaultOther:
			return "The HTTPS port takes the connection, but TURN does not answer behind it. Something in between ends TLS, or too many connections wait there (" + h.Detail + "); let TCP through to the appliance itself."
		default:
			return "TURN over TLS cannot be reached: " + w.signalling(h)
		}
	}
	what, setting, number, _, _ := w.port(h.Name)
	if h.Fault == sfu.FaultAddress {
		return fmt.Sprintf("%s %d answers at the machine's own address, but not at %s, which clients are told of. Correct sfu.node_ip; if it is right, have the router forward the port, and send back what comes from inside (hairpin NAT).", what, number, w.told)
	}
	if h.Name == sfu.HopTURN {
		return fmt.Sprintf("TURN does not answer at %s %d of %s. Open it in the firewall of this machine (its number is %s); if sfu.node_ip is set, see that it is right.", what, number, w.told, setting)
	}
	return fmt.Sprintf("Nothing comes through %s %d at %s. Open it in the firewall of this machine (its number is %s), and see that no address of sfu.node_ip is wrong.", what, number, w.told, setting)
}

// signalling says why the appliance's address could not be reached.
func (w hopWords) signalling(h sfu.Hop) string {
	port := "443"
	if _, p, err := net.SplitHostPort(w.at); err == nil {
		port = p
	}
	switch h.Fault {
	case sfu.FaultName:
		return "The name in " + w.at + " is not known: " + h.Detail + ". Correct public_url or the network's DNS."
	case sfu.FaultRefused:
		return "Nothing listens at " + w.at + " (" + h.Detail + "). See that the reverse proxy runs, and that public_url has the right port."
	case sfu.FaultTimeout:
		return "No answer from " + w.at + ". Open TCP port " + port + " in the firewall; behind a router, it has to send back what comes from inside (hairpin NAT)."
	case sfu.FaultCertificate:
		return "The certificate at " + w.at + " is not good: " + h.Detail + ". Replace it, or give public_url the name that it is for."
	case sfu.FaultGateway:
		return "A proxy at " + w.at + " answers that it does not reach the appliance (" + h.Detail + "). Correct the address that it passes requests on to."
	case sfu.FaultProxy:
		return w.at + " answers, but no WebSocket comes about (" + h.Detail + "). The reverse proxy has to pass on WebSockets under /livekit/sfu: the headers Upgrade and Connection, by HTTP/1.1."
	}
	return "A client could not come in by " + w.at + ": " + h.Detail + "."
}

// diagnoseCalls has the running appliance try its calls, for the doctor.
func diagnoseCalls(ctx context.Context, c *controlClient) (out []finding) {
	var checks []web.Check
	if err := c.call(ctx, "POST", "/v1/calls/test", nil, &checks); err != nil {
		return []finding{{"calls", false, "they could not be tried: " + err.Error()}}
	}
	for _, k := range checks {
		detail := k.Detail
		if k.OK && !k.Skipped {
			detail += " (" + strconv.FormatInt(k.MS, 10) + " ms)"
		}
		out = append(out, finding{"call " + k.Name, k.OK, detail})
	}
	return out
}

// callToken asks for a relay token as a member of a room does.
func (c *selfTestClient) callToken(ctx context.Context) error {
	room, err := c.room(ctx)
	if err != nil {
		return err
	}
	user := "@" + selfTestUser + ":" + c.a.ServerName()
	var openid map[string]any
	if err := c.do(ctx, "POST", "/_matrix/client/v3/user/"+url.PathEscape(user)+"/openid/request_token", map[string]any{}, &openid); err != nil {
		return err
	}
	var got struct {
		URL string `json:"url"`
		JWT string `json:"jwt"`
	}
	if err := c.do(ctx, "POST", "/livekit/jwt/sfu/get", map[string]any{"room": room, "openid_token": openid, "device_id": "SELFTEST"}, &got); err != nil {
		return err
	}
	if got.JWT == "" || got.URL == "" {
		return errors.New("the token service gave no token")
	}
	return nil
}
