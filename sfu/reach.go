package sfu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/livekit/livekit-server/pkg/routing"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"google.golang.org/protobuf/proto"
)

// Reach is how a client came to this machine. What it is told of goes by that: the
// address that carried its request is one that it can reach.
type Reach struct {
	// Local is the machine's address that the client's connection came to; the zero
	// value where it is not known, as behind a reverse proxy.
	Local netip.Addr `json:"local"`
	// Name is the name or address by which the client knows the server, or "".
	Name string `json:"name,omitempty"`
	// HTTPS is the name and port of the HTTPS listener as the client knows them, whose
	// TURN connections are given to ServeTURN; "" where there is none.
	HTTPS string `json:"https,omitempty"`
}

type reachKey struct{}

// seatKey has the seat that a request's token was checked for.
type seatKey struct{}

// errAnotherSeat means that LiveKit understood a request otherwise than admits did.
var errAnotherSeat = errors.New("sfu: the request is for another place than its token")

// WithReach says how the client of a request to Handler came here.
func WithReach(ctx context.Context, r Reach) context.Context {
	return context.WithValue(ctx, reachKey{}, r)
}

// ReachOf is what WithReach said; the zero value where it did not.
func ReachOf(ctx context.Context) Reach {
	r, _ := ctx.Value(reachKey{}).(Reach)
	r.Local = r.Local.Unmap().WithZone("")
	return r
}

// hosts are the addresses of TURN over UDP to tell a client of, best first: the one
// that it came to, if TURN listens there. Configured addresses are told of in any
// case, and nothing else: they are there because the machine's own are of no use.
func (e *engine) hosts(r Reach) []string {
	local := r.Local.Unmap().WithZone("").String()
	switch {
	case e.addr.fixed && slices.Contains(e.addr.all, local):
		return append([]string{local}, slices.DeleteFunc(slices.Clone(e.addr.all), func(a string) bool { return a == local })...)
	case e.addr.fixed:
		return e.addr.all
	case slices.Contains(e.turnOn, local):
		return []string{local}
	}
	return e.conf.RTC.NodeIP.ToStringSlice()
}

// turnURLs are the URLs of this relay's TURN server for a client. tcpOnly is for one
// whose UDP turned out not to work.
func (e *engine) turnURLs(r Reach, named, tcpOnly bool) []string {
	var out []string
	udp := func(h string) {
		u := url.URL{Scheme: "turn", Opaque: net.JoinHostPort(h, strconv.Itoa(e.ports.TURN)), RawQuery: "transport=udp"}
		out = append(out, u.String())
	}
	if !tcpOnly || r.HTTPS == "" {
		hosts := e.hosts(r)
		name := strings.Trim(r.Name, "[]")
		if ip, err := netip.ParseAddr(name); !named || slices.Contains(hosts, name) || name == "localhost" ||
			err == nil && (ip.IsLoopback() || ip.IsUnspecified()) {
			name = ""
		}
		// Where it is not known which address the client came to, its own name for the
		// server is the better guess.
		if name != "" && !r.Local.IsValid() {
			udp(name)
		}
		for _, h := range hosts {
			udp(h)
		}
		if name != "" && r.Local.IsValid() {
			udp(name)
		}
	}
	if r.HTTPS != "" {
		// Without TLS, too: not every client's WebRTC knows the authorities that its user
		// trusts, and media is encrypted in any case.
		for _, scheme := range []string{"turns", "turn"} {
			u := url.URL{Scheme: scheme, Opaque: r.HTTPS, RawQuery: "transport=tcp"}
			out = append(out, u.String())
		}
	}
	return out
}

// reachRouter has what LiveKit tells a client fit the way that the client came.
type reachRouter struct {
	routing.MessageRouter
	e *engine
}

func (r reachRouter) StartParticipantSignal(ctx context.Context, room livekit.RoomName, pi routing.ParticipantInit) (routing.StartParticipantSignalResults, error) {
	if at, _ := ctx.Value(seatKey{}).(seat); at != (seat{string(room), string(pi.Identity)}) {
		return routing.StartParticipantSignalResults{}, errAnotherSeat
	}
	// A client may ask for it, and the relay would send checks wherever its candidates say.
	pi.DisableICELite = false
	if r.e.cluster != nil {
		if res, elsewhere, err := r.e.cluster.session(ctx, room, pi); elsewhere {
			return res, err // what the client is told of is the other relay's
		}
	}
	res, err := r.MessageRouter.StartParticipantSignal(ctx, room, pi)
	if err == nil {
		t := newTold(res.ResponseSource, r.e, ReachOf(ctx))
		for _, a := range pi.AddTrackRequests {
			t.adds(a)
		}
		res.ResponseSource, res.RequestSink = t, asked{res.RequestSink, t}
	}
	return res, err
}

// asked is what a client sends to LiveKit, as told has to know of it. It is a
// routing.MessageSink.
type asked struct {
	routing.MessageSink
	t *told
}

// WriteMessage implements routing.MessageSink.
func (a asked) WriteMessage(m proto.Message) error {
	if req, ok := m.(*livekit.SignalRequest); ok {
		a.t.adds(req.GetAddTrack())
	}
	return a.MessageSink.WriteMessage(m)
}

// told is what LiveKit sends a client, rewritten. It is a routing.MessageSource.
type told struct {
	screen atomic.Bool // the client shares a screen, or did
	routing.MessageSource
	e     *engine
	reach Reach
	sent  map[string]bool // candidates, where addresses are configured
	out   chan proto.Message
	done  chan struct{}
	once  sync.Once
}

func newTold(src routing.MessageSource, e *engine, r Reach) *told {
	t := &told{MessageSource: src, e: e, reach: r, sent: map[string]bool{}, out: make(chan proto.Message), done: make(chan struct{})}
	go t.run()
	return t
}

// ReadChan implements routing.MessageSource.
func (t *told) ReadChan() <-chan proto.Message { return t.out }

// Close implements routing.MessageSource.
func (t *told) Close() {
	t.once.Do(func() { close(t.done) })
	t.MessageSource.Close()
}

func (t *told) run() {
	defer close(t.out)
	for {
		var m proto.Message
		select {
		case m = <-t.MessageSource.ReadChan():
		case <-t.done:
			return
		}
		if m == nil {
			return
		}
		for _, x := range t.rewrite(m) {
			select {
			case t.out <- x:
			case <-t.done:
				return
			}
		}
	}
}

func (t *told) rewrite(m proto.Message) []proto.Message {
	res, ok := m.(*livekit.SignalResponse)
	if !ok {
		return []proto.Message{m}
	}
	switch v := res.GetMessage().(type) {
	case *livekit.SignalResponse_Join:
		join := proto.Clone(v.Join).(*livekit.JoinResponse)
		t.servers(join.IceServers)
		join.PingInterval, join.PingTimeout = clientPings, clientPatience
		return []proto.Message{&livekit.SignalResponse{Message: &livekit.SignalResponse_Join{Join: join}}}
	case *livekit.SignalResponse_Reconnect:
		again := proto.Clone(v.Reconnect).(*livekit.ReconnectResponse)
		t.servers(again.IceServers)
		return []proto.Message{&livekit.SignalResponse{Message: &livekit.SignalResponse_Reconnect{Reconnect: again}}}
	case *livekit.SignalResponse_Offer:
		sd := proto.Clone(v.Offer).(*livekit.SessionDescription)
		sd.Sdp = t.description(sd.Sdp)
		return []proto.Message{&livekit.SignalResponse{Message: &livekit.SignalResponse_Offer{Offer: sd}}}
	case *livekit.SignalResponse_Answer:
		sd := proto.Clone(v.Answer).(*livekit.SessionDescription)
		sd.Sdp = limited(t.description(sd.Sdp), t.e.caps.advice(t.screen.Load()))
		return []proto.Message{&livekit.SignalResponse{Message: &livekit.SignalResponse_Answer{Answer: sd}}}
	case *livekit.SignalResponse_Trickle:
		return t.trickle(v.Trickle, m)
	}
	return []proto.Message{m}
}

// servers puts our URLs in the place of LiveKit's, which knows one port and one list
// of addresses for everybody. The credentials stay.
func (t *told) servers(list []*livekit.ICEServer) {
	for _, s := range list {
		udp := slices.ContainsFunc(s.Urls, func(u string) bool { return strings.HasSuffix(u, "transport=udp") })
		s.Urls = t.e.turnURLs(t.reach, false, !udp)
	}
}

func (t *told) adds(a *livekit.AddTrackRequest) {
	if a.GetSource() == livekit.TrackSource_SCREEN_SHARE {
		t.screen.Store(true)
	}
}

// limited puts a limit in bits a second into each picture's section of an answer: as
// b=TIAS, and as b=AS for clients that know only that (RFC 8866, section 5.8).
func limited(sdp string, limit int64) string {
	if limit == 0 {
		return sdp
	}
	var b strings.Builder
	video := false
	for line := range strings.Lines(sdp) {
		if strings.HasPrefix(line, "m=") {
			video = strings.HasPrefix(line, "m=video ")
		}
		b.WriteString(line)
		if video && strings.HasPrefix(line, "c=") {
			fmt.Fprintf(&b, "b=AS:%d\r\nb=TIAS:%d\r\n", (limit+999)/1000, limit)
		}
	}
	return b.String()
}

const candidateLine = "a=candidate:"

func (t *told) description(sdp string) string {
	if !strings.Contains(sdp, candidateLine) {
		return sdp
	}
	var b strings.Builder
	seen := map[string]bool{}
	for line := range strings.Lines(sdp) {
		rest, ok := strings.CutPrefix(line, candidateLine)
		if !ok {
			if strings.HasPrefix(line, "m=") {
				clear(seen)
			}
			b.WriteString(line)
			continue
		}
		for _, c := range t.candidates(strings.TrimRight(rest, "\r\n")) {
			if !seen[c] {
				seen[c] = true
				b.WriteString(candidateLine + c + "\r\n")
			}
		}
	}
	return b.String()
}

func (t *told) trickle(v *livekit.TrickleRequest, m proto.Message) (out []proto.Message) {
	var init webrtc.ICECandidateInit
	if json.Unmarshal([]byte(v.GetCandidateInit()), &init) != nil {
		return []proto.Message{m}
	}
	const prefix = "candidate:"
	rest, ok := strings.CutPrefix(init.Candidate, prefix)
	if !ok { // the end of candidates
		return []proto.Message{m}
	}
	fragment := ""
	if init.UsernameFragment != nil {
		fragment = *init.UsernameFragment
	}
	for _, c := range t.candidates(rest) {
		// The user fragment tells one gathering from the next.
		key := fmt.Sprint(v.GetTarget(), " ", fragment, " ", c)
		if t.sent[key] || len(t.sent) > maxTold {
			continue
		}
		t.sent[key] = true
		init.Candidate = prefix + c
		one := proto.Clone(v).(*livekit.TrickleRequest)
		b, err := json.Marshal(init)
		if err != nil {
			return []proto.Message{m}
		}
		one.CandidateInit = string(b)
		out = append(out, &livekit.SignalResponse{Message: &livekit.SignalResponse_Trickle{Trickle: one}})
	}
	return out
}

// Clients ask over signalling whether it still stands, and connect anew when no answer
// came for that long. LiveKit's are 5 and 15 seconds: so long nobody is heard whose
// network changed, since a browser gives an ICE connection up no sooner.
const (
	clientPings    = 2 // seconds
	clientPatience = 5 // seconds
)

// maxTold bounds what is remembered of a session that restarts ICE again and again.
const maxTold = 4096

// candidates makes of a host candidate of LiveKit's what the client is to be told: the
// address that it came to stands before the others. Where several addresses are
// configured, those take the place of the interfaces'.
func (t *told) candidates(c string) []string {
	f := strings.Fields(c) // foundation component protocol priority address port typ host
	if len(f) < 8 {
		return []string{c}
	}
	addr, err := netip.ParseAddr(f[4])
	prio, err2 := strconv.ParseUint(f[3], 10, 32)
	if err != nil || err2 != nil {
		return []string{c}
	}
	list := []string{addr.String()}
	if t.e.addr.mapped {
		list = nil
		for _, x := range t.e.addr.all {
			ip, err := netip.ParseAddr(x)
			// The interface's own where it is configured; what is no interface's, from each.
			if err == nil && ip.Is4() == addr.Is4() && (ip == addr || !slices.Contains(t.e.addr.machine, x)) {
				list = append(list, x)
			}
		}
	}
	first := t.e.hosts(t.reach)[0]
	var out []string
	for _, x := range list {
		p := prio
		if t.reach.Local.IsValid() && x != first && p > 1<<8 {
			p -= 1 << 8 // one less of local preference (RFC 8445, 5.1.2.1)
		}
		g := slices.Clone(f)
		g[3], g[4] = strconv.FormatUint(p, 10), x
		out = append(out, strings.Join(g, " "))
	}
	return out
}
