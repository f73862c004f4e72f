package sfu

import (
	"context"
	"sync"
	"time"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
)

// LiveKit keeps a participant whose signalling ended until ICE fails, and some seconds
// more: twenty in all. A program that was killed is recognised sooner. The kernel
// closes its sockets, so its signalling ends at once, and its media ends with it.
// Whoever has only lost the network has not closed anything; whose signalling alone
// was cut, as by a proxy that restarts, is still heard; and whoever comes back within
// silentFor stays.
//
// A machine that lost its power or its cable closes nothing either. It answers no pings
// on its signalling connection, and no media comes: after deafFor it is taken out, if
// media came often enough before that a network which failed for some seconds would
// have been told by it at once. From those who only listen to sound too little comes to
// say so: of them ICE must have heard nothing for as long (ten seconds, LiveKit's time
// until a connection counts as disconnected), whose checks all clients send.
const (
	// silentFor is how long nothing may come from a participant without signalling.
	// It is longer than most losses of a network, and leaves a killed program's
	// membership time to be ended within fifteen seconds.
	silentFor = 9 * time.Second
	// deafFor is how long nothing may come from a participant whose signalling stands.
	// A network that fails for eight seconds puts nobody out, and the membership of one
	// who is gone is ended within fifteen.
	deafFor = 10500 * time.Millisecond
	// pingEvery is how often signalling is asked for a sign of life.
	pingEvery = time.Second
	// listenEvery is how often their media is looked at. Receiver reports of sound are
	// five seconds apart, all else is closer.
	listenEvery = 500 * time.Millisecond
)

// seat is a participant's place: what its token is for.
type seat struct{ room, identity string }

// signalling counts each participant's signalling connections.
type signalling struct {
	mu   sync.Mutex
	open map[seat]int
}

func (g *signalling) begin(at seat) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[at]++
}

// end reports whether it was the participant's last connection.
func (g *signalling) end(at seat) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[at]--; g.open[at] > 0 {
		return false
	}
	delete(g.open, at)
	return true
}

func (g *signalling) stands(at seat) bool { return g.count(at) > 0 }

func (g *signalling) count(at seat) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open[at]
}

// any reports whether anybody has a connection.
func (g *signalling) any() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.open) > 0
}

// signalled serves a signalling connection, and looks after its participant when it
// has ended.
func (s *SFU) signalled(e *engine, at seat, serve func(watch func(*messages))) {
	s.signals.begin(at)
	defer func() {
		if s.signals.end(at) && s.presence.has(at.room, at.identity) {
			go s.listen(e, at)
		}
	}()
	serve(func(m *messages) { go s.watch(e, at, m) })
}

// watch takes the participant of a signalling connection out of its room once neither
// the connection nor media brings anything any more.
func (s *SFU) watch(e *engine, at seat, m *messages) {
	deaf := s.o.deaf
	if deaf == 0 {
		deaf = deafFor
	}
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	last, pinged := time.Now(), time.Time{}
	heard := last
	var before map[string]uint64 // signs
	quiet := 2                   // looks in a row that found nothing
	for {
		select {
		case <-tick.C:
		case <-m.ended: // listen goes on from here
			return
		case <-e.done:
			return
		}
		now := time.Now()
		heard = forgive(heard, last, now)
		last = now
		due := now.Sub(pinged) >= pingEvery
		if due {
			pinged = now
			m.ping()
		}
		if said := time.Unix(0, m.heard.Load()); said.After(heard) {
			heard = said
		}
		answers := now.Sub(heard) < pingEvery+listenEvery
		if answers && !due { // nothing to worry about: what it sends is looked at now and then
			continue
		}
		after := signs(e.participant(at), !answers)
		came := grown(before, after)
		before = after
		switch {
		case came && answers:
			quiet = 0
		case came:
			heard = now
		case answers:
			quiet++
		}
		if now.Sub(heard) < deaf || quiet >= 2 && reached(e.participant(at)) {
			continue
		}
		if s.signals.count(at) > 1 { // it signals anew; this connection is left over
			return
		}
		s.remove(e, at, "a participant fell silent, as if its machine or network were gone, and is taken out of the call", deaf)
		return
	}
}

// forgive moves the time when somebody was heard by how long this machine itself stood
// still, or had no time, since it looked last.
func forgive(heard, last, now time.Time) time.Time {
	if gap := now.Sub(last) - 2*listenEvery; gap > 0 {
		return heard.Add(gap)
	}
	return heard
}

// remove takes a participant out of its room. Its token stays good.
func (s *SFU) remove(e *engine, at seat, why string, after time.Duration) {
	s.log.Info(why, "after", after)
	s.presence.because(at.room, at.identity, leftLost)
	if _, err := e.rooms.RemoveParticipant(context.Background(), &livekit.RoomParticipantIdentity{Room: at.room, Identity: at.identity}); err != nil {
		s.log.Debug("the participant had left", "err", err)
	}
}

// listen waits until a participant without signalling has signalling again, has left,
// or has been silent for so long that it is taken out of its room. Its token stays
// good: it may come back.
func (s *SFU) listen(e *engine, at seat) {
	silent := s.o.silent
	if silent == 0 {
		silent = silentFor
	}
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	p := e.participant(at)
	before, heard, last := signs(p, true), time.Now(), time.Now()
	for p != nil {
		select {
		case <-tick.C:
		case <-e.done:
			return
		}
		if s.signals.stands(at) {
			return
		}
		if p = e.participant(at); p == nil {
			return
		}
		heard, last = forgive(heard, last, time.Now()), time.Now()
		now := signs(p, true)
		if grown(before, now) {
			heard = time.Now()
		}
		before = now
		if time.Since(heard) < silent {
			continue
		}
		s.remove(e, at, "a participant who has no signalling any more fell silent and is taken out of the call", silent)
		return
	}
}

func (e *engine) participant(at seat) types.LocalParticipant {
	r := e.rooms.GetRoom(context.Background(), livekit.RoomName(at.room))
	if r == nil {
		return nil
	}
	return r.GetParticipant(livekit.ParticipantIdentity(at.identity))
}

// signs are counters that grow while packets come from a participant: those of what it
// sends, and the times of its reports on what it receives. Those on sound can be many
// seconds apart: rare says whether they count.
func signs(p types.LocalParticipant, rare bool) map[string]uint64 {
	out := map[string]uint64{}
	if p == nil {
		return out
	}
	for _, t := range p.GetPublishedTracks() {
		for _, r := range t.Receivers() {
			if st := r.GetTrackStats(); st != nil {
				out[string(t.ID())] += uint64(st.Packets) + uint64(st.PacketsPadding)
			}
		}
	}
	for _, t := range p.GetSubscribedTracks() {
		if !rare && t.MediaTrack().Kind() == livekit.TrackType_AUDIO {
			continue
		}
		out[string(t.ID())] = uint64(t.DownTrack().GetPrimaryStreamLastReceiverReportTime().UnixNano())
	}
	return out
}

// reached reports whether ICE hears a participant, on the connection by which it receives
// what others send. Whoever receives nothing has no other sign of life than signalling.
func reached(p types.LocalParticipant) bool {
	if p == nil {
		return false
	}
	for _, t := range p.GetSubscribedTracks() {
		sender := t.RTPSender()
		if sender == nil || sender.Transport() == nil {
			continue
		}
		switch sender.Transport().ICETransport().State() {
		case webrtc.ICETransportStateConnected, webrtc.ICETransportStateCompleted:
			return true
		}
	}
	return false
}

// grown reports whether a counter that was there before has grown.
func grown(before, now map[string]uint64) bool {
	for k, was := range before {
		if now[k] > was {
			return true
		}
	}
	return false
}
