package sfu

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/livekit-server/pkg/sfu"
	"github.com/livekit/protocol/livekit"
)

// What the calls are like at this moment is read from LiveKit's counters: packets that
// came, and the reports of those who receive on what they got. Two looks some seconds
// apart give bit rates and losses.
const (
	sampleEvery  = 5 * time.Second  // while nobody asks
	watchEvery   = 2 * time.Second  // while somebody does
	watchedFor   = 15 * time.Second // after the last question
	sampleWindow = 10 * time.Second // receiver reports of sound are five seconds apart
)

// Call is a call that runs.
type Call struct {
	Room         string    `json:"room"` // the relay's name for it
	Began        time.Time `json:"began"`
	Participants int       `json:"participants"`
	Node         string    `json:"node,omitempty"` // the relay that holds it, where that is another
	// What all of its participants send and get, and the worst of their connections.
	UpBits   int64   `json:"up_bits"`
	DownBits int64   `json:"down_bits"`
	Loss     float64 `json:"loss"`
	RTT      float64 `json:"rtt_ms"`
	// People is there where one call was asked for.
	People []Participant `json:"people,omitempty"`
}

// Participant is somebody in a call.
type Participant struct {
	Identity string    `json:"identity"`
	Since    time.Time `json:"since"`
	Client   string    `json:"client,omitempty"` // the program, as it says itself
	// Path is how media goes, "" while it does not; Family is "ipv4" or "ipv6".
	Path    Path    `json:"path,omitempty"`
	Family  string  `json:"family,omitempty"`
	Quality string  `json:"quality"` // LiveKit's word: "excellent", "good", "poor" or "lost"
	RTT     float64 `json:"rtt_ms"`  // 0: not known
	Up      Link    `json:"up"`      // from the participant to the relay
	Down    Link    `json:"down"`
	Tracks  []Track `json:"tracks,omitempty"`
	// Received counts the pictures that the participant gets, by layer, smallest first.
	Received []int `json:"received,omitempty"`
}

// Link is one direction of a participant's connection, over the last seconds.
type Link struct {
	Bits   int64   `json:"bits"`      // a second
	Loss   float64 `json:"loss"`      // part of the packets, 0 to 1
	Jitter float64 `json:"jitter_ms"` // the worst track's
}

// Track is what a participant sends.
type Track struct {
	Kind   string  `json:"kind"`   // "audio" or "video"
	Source string  `json:"source"` // "microphone", "camera", "screen_share", "screen_share_audio" or "unknown"
	Codec  string  `json:"codec,omitempty"`
	Muted  bool    `json:"muted,omitempty"`
	Layers []Layer `json:"layers,omitempty"` // of a picture, as they come in, smallest first
}

// Layer is a size in which a picture is sent.
type Layer struct {
	Width  uint32 `json:"width,omitempty"`
	Height uint32 `json:"height,omitempty"`
	Bits   int64  `json:"bits"` // a second
}

// counts are counters that grow.
type counts struct{ bytes, packets, lost uint64 }

func (c counts) plus(d counts) counts {
	return counts{c.bytes + d.bytes, c.packets + d.packets, c.lost + d.lost}
}

// since is what came on top. A counter may go back: a packet that was thought lost came.
func (c counts) since(was counts) counts {
	less := func(now, was uint64) uint64 {
		if now < was {
			return 0
		}
		return now - was
	}
	return counts{less(c.bytes, was.bytes), less(c.packets, was.packets), less(c.lost, was.lost)}
}

type trackKey struct {
	session livekit.ParticipantID
	track   livekit.TrackID
	down    bool
}

// look is one look at a participant: the sums of all its tracks, also of ended ones.
type look struct {
	at       time.Time
	up, down counts
}

// person is what is known of a session.
type person struct {
	looks               []look // of sampleWindow, oldest first
	path                Path
	family              string
	rtt                 float64 // in ms
	jitterUp, jitterOut float64 // in ms
}

func (p *person) links() (up, down Link) {
	up.Jitter, down.Jitter = p.jitterUp, p.jitterOut
	if len(p.looks) < 2 {
		return up, down
	}
	first, last := p.looks[0], p.looks[len(p.looks)-1]
	took := last.at.Sub(first.at).Seconds()
	if took <= 0 {
		return up, down
	}
	u, d := last.up.since(first.up), last.down.since(first.down)
	up.Bits, down.Bits = int64(float64(u.bytes)*8/took), int64(float64(d.bytes)*8/took)
	if all := u.packets + u.lost; all > 0 { // only what arrived was counted
		up.Loss = float64(u.lost) / float64(all)
	}
	if d.packets > 0 { // what was sent, lost or not
		down.Loss = min(float64(d.lost)/float64(d.packets), 1)
	}
	return up, down
}

// live looks at the calls again and again.
type live struct {
	mu       sync.Mutex
	tracks   map[trackKey]counts
	people   map[livekit.ParticipantID]*person
	asked    time.Time // when somebody last wanted to know
	observed time.Time // when the metrics were last told
	ask      chan struct{}
}

func newLive() *live {
	return &live{tracks: map[trackKey]counts{}, people: map[livekit.ParticipantID]*person{}, ask: make(chan struct{}, 1)}
}

// observe looks at the calls of an engine until it stops.
func (s *SFU) observe(e *engine) {
	timer := time.NewTimer(sampleEvery)
	defer timer.Stop()
	for {
		select {
		case <-e.done:
			return
		case <-s.live.ask:
		case <-timer.C:
			s.live.sample(e, s.presence.names(), time.Now())
		}
		s.live.mu.Lock()
		every := sampleEvery
		if time.Since(s.live.asked) < watchedFor {
			every = watchEvery
		}
		s.live.mu.Unlock()
		timer.Reset(every)
	}
}

// want has the calls looked at more often for a while.
func (l *live) want() {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.asked
	if l.asked = time.Now(); l.asked.Sub(was) > watchedFor {
		select {
		case l.ask <- struct{}{}:
		default:
		}
	}
}

func (l *live) sample(e *engine, rooms []string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tracks, people := map[trackKey]counts{}, map[livekit.ParticipantID]*person{}
	for _, name := range rooms {
		for _, p := range e.people(name) {
			h := l.people[p.ID()]
			if h == nil {
				h = &person{}
			}
			people[p.ID()] = h
			h.look(p, now, l.tracks, tracks)
			h.path, h.family = e.way(p)
		}
	}
	l.tracks, l.people = tracks, people
	if now.Sub(l.observed) >= sampleEvery-time.Second {
		l.observed = now
		observe(people)
	}
}

// look adds to a person what its tracks counted since the look before.
func (h *person) look(p types.LocalParticipant, now time.Time, was, is map[trackKey]counts) {
	next := look{at: now}
	if n := len(h.looks); n > 0 {
		next.up, next.down = h.looks[n-1].up, h.looks[n-1].down
	}
	take := func(k trackKey, st *livekit.RTPStats) (more counts) {
		c := counts{st.Bytes + st.HeaderBytes + st.BytesPadding + st.BytesDuplicate, uint64(st.Packets) + uint64(st.PacketsPadding), uint64(st.PacketsLost)}
		is[k] = is[k].plus(c)
		return c
	}
	h.jitterUp, h.jitterOut = 0, 0
	rtt := uint32(0)
	for _, t := range p.GetPublishedTracks() {
		k := trackKey{p.ID(), t.ID(), false}
		for _, r := range t.Receivers() {
			if st := r.GetTrackStats(); st != nil {
				take(k, st)
				h.jitterUp = max(h.jitterUp, st.JitterCurrent/1000)
				rtt = max(rtt, st.RttCurrent)
			}
		}
		next.up = next.up.plus(is[k].since(was[k]))
	}
	for _, t := range p.GetSubscribedTracks() {
		st := t.DownTrack().GetTrackStats()
		if st == nil {
			continue
		}
		k := trackKey{p.ID(), t.ID(), true}
		take(k, st)
		h.jitterOut = max(h.jitterOut, st.JitterCurrent/1000)
		rtt = max(rtt, st.RttCurrent)
		next.down = next.down.plus(is[k].since(was[k]))
	}
	h.rtt = float64(rtt)
	h.looks = append(h.looks, next)
	for len(h.looks) > 2 && now.Sub(h.looks[1].at) >= sampleWindow {
		h.looks = h.looks[1:]
	}
}

// people are the participants of a room.
func (e *engine) people(room string) []types.LocalParticipant {
	r := e.rooms.GetRoom(context.Background(), livekit.RoomName(room))
	if r == nil {
		return nil
	}
	return slices.DeleteFunc(r.GetParticipants(), func(p types.LocalParticipant) bool { return p.IsClosed() })
}

// way is how a participant's media comes here.
func (e *engine) way(p types.LocalParticipant) (Path, string) {
	best, order := (*types.ICECandidateExtended)(nil), 0
	for _, info := range p.GetICEConnectionInfo() {
		for _, c := range info.Remote {
			if c.SelectedOrder > order && c.Candidate != nil {
				best, order = c, c.SelectedOrder
			}
		}
	}
	if best == nil {
		return "", ""
	}
	ip, err := netip.ParseAddr(best.Candidate.Address)
	if err != nil {
		return "", ""
	}
	if o, ok := e.origins.at(best.Candidate.Port); ok && e.own[ip.Unmap().String()] {
		return o.path, o.family
	}
	path := PathUDP
	if strings.EqualFold(best.Candidate.Protocol.String(), "tcp") {
		path = PathTCP
	}
	return path, familyOf(ip)
}

func familyOf(ip netip.Addr) string {
	if ip.Unmap().Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// origin is where a client of TURN is.
type origin struct {
	path   Path
	family string
	port   int // of its relayed address
}

// origins are those of the allocations that stand. LiveKit sees their relayed addresses
// only, which are this machine's.
type origins struct {
	mu   sync.Mutex
	from map[string]origin // by network and address of the client
	port map[int]origin
}

func newOrigins() *origins { return &origins{from: map[string]origin{}, port: map[int]origin{}} }

func (o *origins) add(from, relayed net.Addr) {
	ap, err := netip.ParseAddrPort(from.String())
	u, ok := relayed.(*net.UDPAddr)
	if err != nil || !ok {
		return
	}
	at := origin{PathTURN, familyOf(ap.Addr()), u.Port}
	if _, stream := from.(*net.TCPAddr); stream {
		at.path = PathHTTPS
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.from[from.Network()+from.String()] = at
	o.port[u.Port] = at
}

func (o *origins) remove(from net.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := from.Network() + from.String()
	if at, ok := o.from[k]; ok {
		delete(o.from, k)
		if o.port[at.port] == at {
			delete(o.port, at.port)
		}
	}
}

func (o *origins) at(port uint16) (origin, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, ok := o.port[int(port)]
	return at, ok
}

func (o *origins) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.from)
}

// ErrNoCall means that there is no such call any more.
var ErrNoCall = errors.New("sfu: there is no such call")

// Calls lists the calls that run, the longest first; with a room that one alone, and
// the people in it. Errors: ErrNotRunning, ErrNoCall.
func (s *SFU) Calls(ctx context.Context, room string) ([]Call, error) {
	e, err := s.running()
	if err != nil {
		return nil, err
	}
	s.live.want()
	var elsewhere map[string]Call
	if e.cluster != nil && !e.cluster.o.Node {
		elsewhere = e.cluster.calls(ctx, room)
	}
	out := []Call{}
	for name, began := range s.presence.since() {
		if room != "" && name != room {
			continue
		}
		c := Call{Room: name, Began: began}
		for _, p := range e.people(name) {
			c.Participants++
			one := s.participant(e, p, room != "")
			c.UpBits += one.Up.Bits
			c.DownBits += one.Down.Bits
			c.Loss = max(c.Loss, one.Up.Loss, one.Down.Loss)
			c.RTT = max(c.RTT, one.RTT)
			if room != "" {
				c.People = append(c.People, one)
			}
		}
		if there, ok := elsewhere[name]; ok && c.Participants == 0 {
			there.Began = began
			c = there
		}
		if c.Participants == 0 && e.cluster != nil { // its relay has not told of it yet
			for _, who := range s.presence.in(name) {
				c.Participants++
				if room != "" {
					c.People = append(c.People, Participant{Identity: who, Since: began})
				}
			}
		}
		if c.Participants == 0 {
			continue
		}
		slices.SortFunc(c.People, func(a, b Participant) int {
			return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Identity, b.Identity))
		})
		out = append(out, c)
	}
	if room != "" && len(out) == 0 {
		return nil, ErrNoCall
	}
	slices.SortFunc(out, func(a, b Call) int { return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.Room, b.Room)) })
	return out, nil
}

func (s *SFU) participant(e *engine, p types.LocalParticipant, all bool) Participant {
	out := Participant{Identity: string(p.Identity()), Since: p.ConnectedAt()}
	s.live.mu.Lock()
	if h := s.live.people[p.ID()]; h != nil {
		out.Up, out.Down = h.links()
		out.RTT = h.rtt
	}
	s.live.mu.Unlock()
	if !all {
		return out
	}
	out.Path, out.Family = e.way(p)
	out.Client = clientName(p.GetClientInfo())
	out.Quality = strings.ToLower(p.GetConnectionQuality().GetQuality().String())
	for _, t := range p.GetPublishedTracks() {
		out.Tracks = append(out.Tracks, describe(t))
	}
	for _, t := range p.GetSubscribedTracks() {
		if t.MediaTrack().Kind() != livekit.TrackType_VIDEO {
			continue
		}
		layer := forwarded(t.DownTrack())
		if layer < 0 {
			continue
		}
		for len(out.Received) <= int(layer) {
			out.Received = append(out.Received, 0)
		}
		out.Received[layer]++
	}
	return out
}

// forwarded is the size of a picture that a listener is sent now; -1: none.
func forwarded(t *sfu.DownTrack) int32 {
	if layer, ok := t.DebugInfo()["CurrentSpatialLayer"].(int32); ok && layer >= 0 && layer <= 9 {
		return layer
	}
	return -1
}

func describe(t types.MediaTrack) Track {
	out := Track{Kind: strings.ToLower(t.Kind().String()), Source: strings.ToLower(t.Source().String()), Muted: t.IsMuted()}
	for _, r := range t.Receivers() {
		mime := r.Mime().String()
		_, codec, _ := strings.Cut(mime, "/")
		out.Codec = codec
		if t.Kind() != livekit.TrackType_VIDEO {
			break
		}
		there, bits := r.GetLayeredBitrate()
		sizes := r.VideoSizes()
		for _, n := range there {
			if n < 0 || int(n) >= len(bits) {
				continue
			}
			l := Layer{Bits: slices.Max(bits[n][:])}
			if int(n) < len(sizes) {
				l.Width, l.Height = sizes[n].Width, sizes[n].Height
			}
			out.Layers = append(out.Layers, l)
		}
		break // a second codec is a copy of the same picture
	}
	return out
}

// maxClientName is in runes: what a client says of itself may be anything.
const maxClientName = 64

func clientName(c *livekit.ClientInfo) string {
	if c == nil {
		return ""
	}
	name := strings.TrimSpace(c.GetBrowser() + " " + c.GetBrowserVersion())
	if name == "" {
		name = strings.TrimSpace(strings.ToLower(c.GetSdk().String()) + " " + c.GetVersion())
	}
	for _, more := range []string{c.GetOs(), c.GetDeviceModel()} {
		if more != "" && more != "Other" { // what Element Call says of computers
			name += ", " + more
		}
	}
	var out []rune
	for _, r := range name {
		if len(out) == maxClientName {
			break
		}
		if unicode.IsPrint(r) {
			out = append(out, r)
		}
	}
	return string(out)
}

// End ends a call: everybody in it is taken out, and their tokens are void until Mint
// makes new ones. Errors: ErrNotRunning, ErrNoCall.
func (s *SFU) End(ctx context.Context, room string) error {
	e, err := s.running()
	if err != nil {
		return err
	}
	in := s.presence.in(room)
	if len(in) == 0 {
		return ErrNoCall
	}
	for _, who := range in {
		s.presence.because(room, who, leftEnded)
		s.Remove(room, who)
	}
	if e.rooms.GetRoom(ctx, livekit.RoomName(room)) == nil { // on another relay, which ends it when nobody is in it
		return nil
	}
	_, err = e.rooms.DeleteRoom(context.WithoutCancel(ctx), &livekit.DeleteRoomRequest{Room: room})
	return err
}
