package sfu

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/livekit/protocol/livekit"
)

// The hops of a call that Hops goes through.
const (
	HopSignalling = "signalling"      // the websocket, through the appliance's listener or its proxy
	HopUDP        = string(PathUDP)   // media to the UDP port
	HopTCP        = string(PathTCP)   // media to the TCP port
	HopTURN       = string(PathTURN)  // TURN over UDP
	HopHTTPS      = string(PathHTTPS) // TURN over TLS at the HTTPS port
)

// Fault is why a hop does not work.
type Fault string

// The faults that are told apart.
const (
	FaultStart       Fault = "start"       // the relay does not run
	FaultName        Fault = "name"        // the name of the server is not known here
	FaultRefused     Fault = "refused"     // nothing listens
	FaultTimeout     Fault = "timeout"     // no answer at all
	FaultCertificate Fault = "certificate" // for another name, or out of date
	FaultProxy       Fault = "proxy"       // HTTP is answered, and no websocket comes about
	FaultGateway     Fault = "gateway"     // a proxy answers that it does not reach the appliance
	FaultClosed      Fault = "closed"      // no connection for media comes about
	FaultAddress     Fault = "address"     // one does at the machine's own address, not at the one that clients are told
	FaultSilent      Fault = "silent"      // connected, and nothing is heard
	FaultDepends     Fault = "depends"     // it cannot be told while another hop fails
	FaultOff         Fault = "off"         // it is not offered to clients
	FaultOther       Fault = "other"
)

// Hop is how one part of a call went.
type Hop struct {
	Name   string        `json:"name"`
	OK     bool          `json:"ok"`
	Fault  Fault         `json:"fault,omitempty"`
	Detail string        `json:"detail,omitempty"` // what was seen
	Took   time.Duration `json:"took"`
}

// Skipped reports whether the hop was not judged.
func (h Hop) Skipped() bool { return h.Fault == FaultDepends || h.Fault == FaultOff }

// Trial is how the test clients of Hops come to the appliance.
type Trial struct {
	URL   string   `json:"url"`             // of signalling: "wss://chat.example.org/livekit/sfu"
	Dial  []string `json:"dial,omitempty"`  // what is dialled in the place of the URL's host, the first that answers
	Roots []byte   `json:"roots,omitempty"` // PEM: authorities that are trusted besides the machine's
}

const (
	signalTime = 5 * time.Second
	mediaTime  = 8 * time.Second // ICE has given up on what is blocked by then
)

// Hops tries each part of a call by itself: signalling as clients reach it, and media
// by each way, between two clients in this process.
func (s *SFU) Hops(ctx context.Context, t Trial) []Hop {
	sig, servers := s.trySignalling(ctx, t)
	out := []Hop{sig, {Name: HopUDP}, {Name: HopTCP}, {Name: HopTURN}, {Name: HopHTTPS}}
	at := httpsServer(servers)
	var wg sync.WaitGroup
	for i, path := range []Path{PathUDP, PathTCP, PathTURN, PathHTTPS} {
		h := &out[i+1]
		if path == PathHTTPS && at == "" {
			h.Fault = FaultOff
			if !sig.OK { // who may not signal is told of nothing
				h.Fault = FaultDepends
			}
			continue
		}
		wg.Go(func() {
			w := way{path: path}
			if path == PathHTTPS {
				w.https, w.trial = at, t
			}
			*h = s.tryMedia(ctx, w)
		})
	}
	wg.Wait()
	// What TURN relays goes to the UDP port.
	for i := 3; i < len(out); i++ {
		if h := &out[i]; h.Fault == faultBehind {
			if h.Fault = FaultClosed; !out[1].OK {
				h.Fault = FaultDepends
			}
		}
	}
	return out
}

// faultBehind is one of the media port behind TURN.
const faultBehind Fault = "behind"

// httpsServer is the host and port of TURN over TLS that a client was told of, or "".
func httpsServer(servers []*livekit.ICEServer) string {
	for _, s := range servers {
		for _, u := range s.GetUrls() {
			if rest, ok := strings.CutPrefix(u, "turns:"); ok {
				at, _, _ := strings.Cut(rest, "?")
				return at
			}
		}
	}
	return ""
}

// trySignalling joins a room as a client does, through the URL.
func (s *SFU) trySignalling(ctx context.Context, t Trial) (h Hop, servers []*livekit.ICEServer) {
	begun := time.Now()
	h.Name = HopSignalling
	fail := func(f Fault, err error) (Hop, []*livekit.ICEServer) {
		h.Fault, h.Detail, h.Took = f, err.Error(), time.Since(begun)
		return h, nil
	}
	ctx, cancel := context.WithTimeout(ctx, signalTime)
	defer cancel()
	u, err := url.Parse(t.URL)
	if err != nil {
		return fail(FaultOther, err)
	}
	room, end, err := s.testRoom(ctx)
	if err != nil {
		return fail(FaultStart, err)
	}
	defer end()
	token, err := s.Mint(ctx, room, "signalling", "", time.Minute)
	if err != nil {
		return fail(FaultStart, err)
	}
	var note string
	c, err := dialBy(ctx, t.URL+"/rtc", token, way{path: PathUDP}, t.dial, t.tls(u.Hostname(), &note))
	if err != nil {
		return fail(faultOf(err), err)
	}
	defer c.close()
	h.OK, h.Detail, h.Took = true, note, time.Since(begun)
	return h, c.join.GetIceServers()
}

// refusal is an answer of HTTP in the place of a websocket.
type refusal struct{ status int }

func (r *refusal) Error() string { return fmt.Sprintf("the relay answered %d", r.status) }

// faultOf says what an error of a connection means.
func faultOf(err error) Fault {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var answer *refusal
	var timeout net.Error
	switch {
	case errors.As(err, &answer):
		if answer.status >= 502 && answer.status <= 504 {
			return FaultGateway
		}
		return FaultProxy
	case errors.As(err, &dns):
		return FaultName
	case errors.As(err, &cert), errors.As(err, &host), errors.As(err, &invalid):
		return FaultCertificate
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return FaultRefused
	case errors.As(err, &record):
		return FaultProxy // something else than TLS listens
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return FaultTimeout
	}
	return FaultOther
}

// dial connects with the appliance.
func (t Trial) dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	to := t.Dial
	if len(to) == 0 {
		to = []string{addr}
	}
	for _, a := range to {
		var d net.Dialer
		if c, err = d.DialContext(ctx, network, a); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// tls checks a certificate's name and time. Whether clients trust its authority is
// theirs to know: one that this machine does not know is noted.
func (t Trial) tls(host string, note *string) *tls.Config {
	return &tls.Config{ServerName: host, InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		leaf := cs.PeerCertificates[0]
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		roots.AppendCertsFromPEM(t.Roots)
		o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), DNSName: host}
		for _, c := range cs.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		_, err = leaf.Verify(o)
		var unknown x509.UnknownAuthorityError
		if !errors.As(err, &unknown) {
			return err
		}
		if now := time.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
			return x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired}
		}
		if err := leaf.VerifyHostname(host); err != nil {
			return err
		}
		*note = "this machine does not know the authority of its certificate"
		return nil
	}}
}

// tryMedia has two clients call each other by a way.
func (s *SFU) tryMedia(ctx context.Context, w way) Hop {
	ctx, cancel := context.WithTimeout(ctx, 2*mediaTime)
	defer cancel()
	first, stop := context.WithTimeout(ctx, mediaTime)
	defer stop()
	w.seen = &sight{}
	took, err := s.try(first, w)
	h := Hop{Name: string(w.path), OK: err == nil, Took: took}
	if err == nil {
		return h
	}
	h.Detail = err.Error()
	var hop *HopError
	errors.As(err, &hop)
	relayed, dialling := w.seen.get()
	switch {
	case hop != nil && (hop.Hop == "start" || hop.Hop == HopSignalling):
		h.Fault = FaultStart
	case hop != nil && hop.Hop == "media":
		h.Fault = FaultSilent
	case dialling != nil:
		h.Fault, h.Detail = faultOf(dialling), dialling.Error()
	case w.path == PathTURN || w.path == PathHTTPS:
		if h.Fault = FaultClosed; relayed {
			h.Fault = faultBehind
		}
	default:
		h.Fault = FaultClosed
		if e, err := s.running(); err == nil && e.addr.fixed {
			// Clients are told of an address that is perhaps not the machine's.
			for _, network := range []string{"udp4", "udp6"} {
				if w.instead = insideAddress(network, e.addr.loopback); w.instead == nil {
					continue
				}
				if _, err := s.try(ctx, w); err == nil {
					h.Fault = FaultAddress
					break
				}
			}
		}
	}
	return h
}

// way is how a test client takes.
type way struct {
	path    Path
	https   string // host and port of TURN over TLS, for PathHTTPS
	trial   Trial
	instead net.IP // the address of the relay's candidates is replaced by this one
	seen    *sight
}

// Dial connects with TURN over TLS. It is a proxy.Dialer, which pion asks for
// connections of TURN.
func (w way) Dial(network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signalTime)
	defer cancel()
	host, _, err := net.SplitHostPort(addr)
	if err == nil {
		var raw net.Conn
		if raw, err = w.trial.dial(ctx, network, addr); err == nil {
			var note string
			c := tls.Client(raw, w.trial.tls(host, &note))
			if err = c.HandshakeContext(ctx); err == nil {
				return c, nil
			}
			raw.Close()
		}
	}
	w.seen.dialled(err)
	return nil, err
}

// sight is what test clients saw on the way.
type sight struct {
	mu      sync.Mutex
	relay   bool // TURN gave an address
	dialErr error
}

func (s *sight) relayed() {
	if s != nil {
		s.mu.Lock()
		s.relay = true
		s.mu.Unlock()
	}
}

func (s *sight) dialled(err error) {
	if s != nil {
		s.mu.Lock()
		s.dialErr = err
		s.mu.Unlock()
	}
}

func (s *sight) get() (relayed bool, dialErr error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.relay, s.dialErr
}
