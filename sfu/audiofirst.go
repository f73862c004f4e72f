package sfu

import (
	"sync"
	"time"

	"github.com/livekit/livekit-server/pkg/sfu"
	"github.com/livekit/livekit-server/pkg/sfu/buffer"
	"github.com/pion/rtcp"
)

// Sound goes before pictures: LiveKit lowers a listener's pictures to what it takes the
// line for, but passes on their smallest sizes over any line. Where those and the sound
// do not fit, both are lost in equal parts, and nobody understands a word. What tells is
// how much of the sound gets lost, as listeners report it: if that is more than a line
// loses that is merely bad, the pictures are stopped for a while.

const (
	// A look is at this much of a listener's sound at least, so that chance has no say in
	// it: of a hundred packets on a line that loses one in twenty, more than an eighth
	// are lost one time in six hundred, and hardly ever twice in a row.
	lookPackets = 100
	lookTime    = 2 * time.Second

	tooMuch  = 1.0 / 8 // the part of the sound that is lost on a line that is too narrow
	badLooks = 2       // so many in a row; after a cut of seconds there is one

	// Pictures are stopped for the first of these, twice as long each time that it does
	// not help for long, and at most for the last.
	pauseFirst = 5 * time.Second
	pauseLast  = 40 * time.Second

	smallFor  = 5 * time.Second // how long they stay at their smallest size after that
	goodAfter = time.Minute     // when it is forgotten
)

// allSizes is no limit of a picture's size.
const allSizes = int32(buffer.DefaultMaxLayerSpatial)

// looks are at the part of packets that gets lost.
type looks struct {
	begun          time.Time // of this one
	expected, lost uint64    // packets, in this one
	bad            int       // of them, in a row
}

// add takes packets that came to be due, and those of them that were lost.
// tooMuch is the part of a bad look.
func (l *looks) add(now time.Time, expected, lost uint64, tooMuch float64) {
	if l.begun.IsZero() {
		l.begun = now
	}
	l.expected, l.lost = l.expected+expected, l.lost+lost
	if l.expected < lookPackets || now.Sub(l.begun) < lookTime {
		return
	}
	if l.bad++; float64(l.lost) <= tooMuch*float64(l.expected) {
		l.bad = 0
	}
	l.begun, l.expected, l.lost = now, 0, 0
}

// priority is what is known of one listener's sound, and what follows for the pictures.
type priority struct {
	looks

	pause   time.Duration // the latest; 0: none that is remembered
	stopped bool
	until   time.Time // when the pictures go on, while they are stopped
	since   time.Time // when they went on
}

// largest takes the packets of sound that came to be due since it was asked last, and
// those of them that were lost. It is the largest size that pictures may have; -1: they
// are to be stopped.
func (p *priority) largest(now time.Time, expected, lost uint64, pictures bool) int32 {
	if p.stopped {
		if now.Before(p.until) {
			return -1
		}
		*p = priority{looks: looks{begun: now}, pause: p.pause, since: now}
		return 0
	}
	if p.pause > 0 && now.Sub(p.since) >= goodAfter {
		p.pause = 0
	}
	if !pictures {
		p.looks = looks{begun: now}
	}
	p.add(now, expected, lost, tooMuch)
	switch {
	case p.bad >= badLooks:
		p.pause = min(max(2*p.pause, pauseFirst), pauseLast)
		p.stopped, p.until = true, now.Add(p.pause)
		return -1
	case p.pause > 0 && now.Sub(p.since) < smallFor:
		return 0
	}
	return allSizes
}

// losses adds up what a listener reports of one track.
type losses struct {
	mu             sync.Mutex
	last           *rtcp.ReceptionReport
	expected, lost uint64 // since they were taken
}

func newLosses(t *sfu.DownTrack) *losses {
	r := &losses{}
	t.AddReceiverReportListener(func(_ *sfu.DownTrack, report *rtcp.ReceiverReport) {
		for _, x := range report.Reports {
			r.add(x)
		}
	})
	return r
}

func (r *losses) add(x rtcp.ReceptionReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.last
	r.last = &x
	if last == nil {
		return
	}
	// Both begin at 0 again when they are full, and both may go back: a report can be
	// late, and a packet that counted as lost. A leap is no loss: a listener may say
	// anything.
	expected := int32(x.LastSequenceNumber - last.LastSequenceNumber)
	lost := int32((x.TotalLost-last.TotalLost)<<8) >> 8 // it has 24 bits
	if expected <= 0 || expected > 1<<15 {
		return
	}
	r.expected += uint64(expected)
	r.lost += uint64(min(max(lost, 0), expected))
}

func (r *losses) take() (expected, lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	expected, lost = r.expected, r.lost
	r.expected, r.lost = 0, 0
	return expected, lost
}
