package sfu

import (
	"context"
	"sync"
	"time"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/protocol/livekit"
)

// LiveKit keeps a participant whose signalling ended until ICE fails, and some seconds
// more: twenty in all. A program that was killed is recognised sooner. The kernel
// closes its sockets, so its signalling ends at once, and its media ends with it.
// Whoever has only lost the network has not closed anything; whose signalling alone
// was cut, as by a proxy that restarts, is still heard; and whoever comes back within
// silentFor stays.
const (
	// silentFor is how long nothing may come from a participant without signalling.
	// It is longer than most losses of a network, and leaves a killed program's
	// membership time to be ended within fifteen seconds.
	silentFor = 9 * time.Second
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

func (g *signalling) stands(at seat) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open[at] > 0
}

// signalled serves a signalling connection, and looks after its participant when it
// has ended.
func (s *SFU) signalled(e *engine, at seat, serve func()) {
	s.signals.begin(at)
	defer func() {
		if s.signals.end(at) && s.presence.has(at.room, at.identity) {
			go s.listen(e, at)
		}
	}()
	serve()
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
	before, heard := signs(p), time.Now()
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
		now := signs(p)
		if grown(before, now) {
			heard = time.Now()
		}
		before = now
		if time.Since(heard) < silent {
			continue
		}
		s.log.Info("a participant who has no signalling any more fell silent and is taken out of the call", "after", silent)
		if _, err := e.rooms.RemoveParticipant(context.Background(), &livekit.RoomParticipantIdentity{Room: at.room, Identity: at.identity}); err != nil {
			s.log.Debug("the participant had left", "err", err)
		}
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
// sends, and the times of its reports on what it receives.
func signs(p types.LocalParticipant) map[string]uint64 {
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
		out[string(t.ID())] = uint64(t.DownTrack().GetPrimaryStreamLastReceiverReportTime().UnixNano())
	}
	return out
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
