package sfu

import (
	"fmt"
	"sync"
	"time"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/protocol/livekit"
)

// LiveKit's estimate of a line is made once, when the line is found to be full. Where it
// came out too high, pictures that do not fit stay, and lose much for as long as the line
// is full. Their listener's reports tell, whatever was estimated.

// pictureTooMuch is the part of its pictures that a listener loses whose line is too
// narrow for them. By chance no line that carries a call loses as much.
const pictureTooMuch = 1.0 / 4

// narrow is what is known of one listener's pictures, and what follows for their size.
type narrow struct {
	looks

	pause time.Duration // the latest; 0: none that is remembered
	held  bool
	most  int32     // the largest size, while they are held
	until time.Time // when they may be larger again, while they are held
	since time.Time // when they were allowed to be
}

// largest takes the packets of pictures that came to be due since it was asked last, and
// those of them that were lost. sent tells the largest size that is sent. It is the largest
// size that pictures may have.
func (n *narrow) largest(now time.Time, expected, lost uint64, sent func() int32) int32 {
	if n.held && !now.Before(n.until) {
		*n = narrow{looks: looks{begun: now}, pause: n.pause, since: now}
	}
	if !n.held && n.pause > 0 && now.Sub(n.since) >= goodAfter {
		n.pause = 0
	}
	n.add(now, expected, lost, pictureTooMuch)
	if n.bad >= badLooks {
		if !n.held {
			n.pause = min(max(2*n.pause, pauseFirst), pauseLast)
		}
		n.looks = looks{begun: now}
		n.held, n.most, n.until = true, max(sent()-1, 0), now.Add(n.pause)
	}
	if n.held {
		return n.most
	}
	return allSizes
}

// An estimate may also stay too low. LiveKit adds up by how much more time passes between
// packets where they arrive than where they left: what waits in a queue makes it grow, and
// so does a listener's clock that runs a little fast. At ten parts in a million every line
// counts as full after some 80 minutes, at fifty after a quarter of an hour, and neither
// that nor what a lost report leaves is ever taken back: pictures stay as small as they
// happened to be. But what waits in queues that are full gets lost in the end. A line that
// counts as full for long, and loses hardly anything, is tried anew.

const (
	hardly    = 1.0 / 32 // the part that a line loses on which nothing is in the way
	stuckFor  = 10 * time.Second
	stuckLast = 10 * time.Minute // where it did not help: twice as long each time, and no longer than this
)

// stuck is what is known of one listener's line that counts as full.
type stuck struct {
	looks

	since time.Time     // when it began to count as full without losses
	wait  time.Duration // after the latest time that it was tried anew; 0: none that is remembered
	tried time.Time
}

// anew takes whether the line counts as full, the packets that came to be due since it was
// asked last, and those of them that were lost. It reports whether the line is to be tried
// anew.
func (s *stuck) anew(now time.Time, full bool, expected, lost uint64) bool {
	if !full {
		if s.wait > 0 && now.Sub(s.tried) >= goodAfter {
			s.wait = 0
		}
		s.looks, s.since = looks{begun: now}, time.Time{}
		return false
	}
	s.add(now, expected, lost, hardly)
	if s.since.IsZero() || s.bad > 0 {
		s.since = now
	}
	if now.Sub(s.since) < max(s.wait, stuckFor) {
		return false
	}
	s.wait = min(2*max(s.wait, stuckFor), stuckLast)
	s.tried, s.since = now, now
	return true
}

// estimateAnew has LiveKit forget what it takes a listener's line for. Its way to say so is
// a capacity without end: with that nothing holds pictures back, which is when it begins
// its estimate from nothing.
func estimateAnew(p types.LocalParticipant) {
	const endless = 100_000_000_000 // bits a second
	p.SetSubscriberChannelCapacity(endless)
	p.SetSubscriberChannelCapacity(0) // what it estimates counts again
}

// congestion is whose lines count as full. LiveKit tells that to its log only, which is one
// for the whole process.
var congestion = full{lines: map[livekit.ParticipantID]bool{}}

type full struct {
	mu    sync.Mutex
	lines map[livekit.ParticipantID]bool
}

func (f *full) has(id livekit.ParticipantID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lines[id]
}

func (f *full) forget(id livekit.ParticipantID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.lines, id)
}

// What LiveKit logs when a line begins or ends to count as full, and when nothing holds
// pictures back any more, which is when it forgets its estimate.
const (
	congestionChanged = "send side bwe: congestion state change"
	allocationChanged = "stream allocator: state change"
)

// hear takes the values of such a message.
func (f *full) hear(values ...any) {
	var id livekit.ParticipantID
	var to string
	for i := 1; i < len(values); i += 2 {
		switch values[i-1] {
		case "participantID":
			id, _ = values[i].(livekit.ParticipantID)
		case "to":
			to = fmt.Sprint(values[i])
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch to {
	case "NONE", "STABLE":
		delete(f.lines, id)
	case "EARLY_WARNING", "CONGESTED":
		f.lines[id] = true
	}
}
