package sfu

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livekit/livekit-server/pkg/telemetry"
	"github.com/livekit/protocol/livekit"
)

// presence knows who is in which room. It listens to what LiveKit reports.
type presence struct {
	mu    sync.Mutex
	rooms map[string]map[string]string // room → identity → ID of its latest session
	begun map[string]time.Time         // room → when the first came in, of those who are in it
	why   map[string]string            // of sessions that are taken out: the reason, where it is another than removal
	// coming are those whose signalling connection stands, also before they are in.
	coming map[string]map[string]int // room → identity → connections
	told   *Changes
}

// Kind says what changed.
type Kind string

// What can change.
const (
	Began  Kind = "began"  // the room is there
	Joined Kind = "joined" // a participant came in
	Left   Kind = "left"   // a participant is gone
	Ended  Kind = "ended"  // the room is gone, after all who were in it
)

// Change is one change of who is where.
type Change struct {
	Kind     Kind   `json:"kind"`
	Room     string `json:"room"`
	Identity string `json:"identity,omitempty"` // of Joined and Left
}

func newPresence() *presence {
	return &presence{rooms: map[string]map[string]string{}, begun: map[string]time.Time{}, why: map[string]string{}, told: NewChanges()}
}

func (p *presence) close() { p.told.Close() }

func (p *presence) subscribe(f func(Change)) func() { return p.told.Subscribe(f) }

func (p *presence) joined(room, identity, session string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[room]
	if r == nil {
		r = map[string]string{}
		p.rooms[room] = r
		p.told.Put(Change{Began, room, ""})
	}
	_, was := r[identity]
	if len(r) == 0 {
		p.begun[room] = time.Now()
	}
	r[identity] = session
	if !was {
		p.told.Put(Change{Joined, room, identity})
	}
}

func (p *presence) left(room, identity, session string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// The end of an old session may be reported after the start of its successor.
	if p.rooms[room][identity] == session {
		delete(p.rooms[room], identity)
		p.told.Put(Change{Left, room, identity})
	}
}

func (p *presence) began(room string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rooms[room] == nil {
		p.rooms[room] = map[string]string{}
		p.told.Put(Change{Began, room, ""})
	}
}

func (p *presence) ended(room string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for identity := range p.rooms[room] {
		p.told.Put(Change{Left, room, identity})
	}
	delete(p.begun, room)
	if p.rooms[room] != nil {
		delete(p.rooms, room)
		p.told.Put(Change{Ended, room, ""})
	}
}

func (p *presence) in(room string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]string, 0, len(p.rooms[room]))
	for identity := range p.rooms[room] {
		out = append(out, identity)
	}
	slices.Sort(out)
	return out
}

func (p *presence) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.rooms))
}

// all is who is where: room → identity → session.
func (p *presence) all() map[string]map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]map[string]string, len(p.rooms))
	for room, people := range p.rooms {
		out[room] = maps.Clone(people)
	}
	return out
}

func (p *presence) knows(room string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rooms[room] != nil
}

func (p *presence) has(room, identity string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.rooms[room][identity]
	return ok
}

// shared lists the rooms with more than one participant.
func (p *presence) shared() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room, r := range p.rooms {
		if len(r) > 1 {
			out = append(out, room)
		}
	}
	return out
}

func (p *presence) stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Rooms: len(p.rooms)}
	for room, r := range p.rooms {
		if IsSelfTest(room) {
			continue
		}
		s.Participants += len(r)
		if len(r) > 0 {
			s.Calls++
		}
	}
	return s
}

// names lists the rooms with somebody in them, but for those of the self-test.
func (p *presence) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]string, 0, len(p.rooms))
	for room, in := range p.rooms {
		if len(in) > 0 && !IsSelfTest(room) {
			out = append(out, room)
		}
	}
	return out
}

// since tells when the calls in names began.
func (p *presence) since() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]time.Time{}
	for room, in := range p.rooms {
		if len(in) > 0 && !IsSelfTest(room) {
			out[room] = p.begun[room]
		}
	}
	return out
}

// because notes why a participant is being taken out.
func (p *presence) because(room, identity, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if session := p.rooms[room][identity]; session != "" {
		p.why[session] = reason
	}
}

// noted is what because noted of a session that ended, or "". It is forgotten.
func (p *presence) noted(session string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	reason := p.why[session]
	delete(p.why, session)
	return reason
}

// IsSelfTest reports whether a room is one of the self-test's.
func IsSelfTest(room string) bool { return strings.HasPrefix(room, selfTestRoom) }

func (p *presence) wrap(t telemetry.TelemetryService) telemetry.TelemetryService {
	return &reports{t, p}
}

// reports is LiveKit's telemetry with presence listening in.
type reports struct {
	telemetry.TelemetryService
	p *presence
}

func (r *reports) RoomStarted(ctx context.Context, room *livekit.Room) {
	r.p.began(room.GetName())
	r.TelemetryService.RoomStarted(ctx, room)
}

func (r *reports) RoomEnded(ctx context.Context, room *livekit.Room) {
	r.p.ended(room.GetName())
	r.TelemetryService.RoomEnded(ctx, room)
}

func (r *reports) ParticipantJoined(ctx context.Context, room *livekit.Room, who *livekit.ParticipantInfo, ci *livekit.ClientInfo, cm *livekit.AnalyticsClientMeta, send bool, g *telemetry.ReferenceGuard) {
	if send { // otherwise it is a report about an earlier join
		if !IsSelfTest(room.GetName()) {
			joins.Inc()
		}
		r.p.joined(room.GetName(), who.GetIdentity(), who.GetSid())
	}
	r.TelemetryService.ParticipantJoined(ctx, room, who, ci, cm, send, g)
}

func (r *reports) ParticipantLeft(ctx context.Context, room *livekit.Room, who *livekit.ParticipantInfo, send bool, g *telemetry.ReferenceGuard) {
	if send {
		if reason := who.GetDisconnectReason(); !IsSelfTest(room.GetName()) {
			by := cmp.Or(r.p.noted(who.GetSid()), leftBy(reason))
			if reason == livekit.DisconnectReason_JOIN_FAILURE {
				failedJoins.WithLabelValues(failedMedia).Inc()
			}
			leaves.WithLabelValues(by).Inc()
		}
		r.p.left(room.GetName(), who.GetIdentity(), who.GetSid())
	}
	r.TelemetryService.ParticipantLeft(ctx, room, who, send, g)
}
