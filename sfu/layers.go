package sfu

import (
	"context"
	"time"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/livekit-server/pkg/sfu"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
)

// LiveKit allocates a picture anew when the picture changes, or when bandwidth does
// while a picture gets less than it needs. One that begins while a listener's line is
// narrow is allocated before its larger sizes were measured, so that its smallest one
// counts as all there is; when the line has become wide again, nothing looks at it any
// more. A shared screen then stays unreadable for as long as it is shared.

// widenEvery is how often such pictures are looked for. One that is found twice is
// allocated anew: the first time it may be on its way to its size.
const widenEvery = time.Second

// widenPictures looks for such pictures until the relay stops.
func (e *engine) widenPictures(p *presence) {
	tick := time.NewTicker(widenEvery)
	defer tick.Stop()
	var found map[*sfu.DownTrack]bool
	for {
		select {
		case <-e.done:
			return
		case <-tick.C:
			found = e.widen(p.shared(), found)
		}
	}
}

// widen allocates pictures anew that are smaller than they could be, though the
// listener's line does not hold anything back. before are those found the last time.
func (e *engine) widen(rooms []string, before map[*sfu.DownTrack]bool) (found map[*sfu.DownTrack]bool) {
	found = map[*sfu.DownTrack]bool{}
	for _, name := range rooms {
		room := e.rooms.GetRoom(context.Background(), livekit.RoomName(name))
		if room == nil {
			continue
		}
		for _, p := range room.GetParticipants() {
			for _, t := range small(p) {
				if before[t] {
					t.AllocateOptimal(true, false)
				} else {
					found[t] = true
				}
			}
		}
	}
	return found
}

// small are the pictures that a participant gets smaller than it asked for and the
// publisher sends; none while its line holds any picture back.
func small(p types.LocalParticipant) (out []*sfu.DownTrack) {
	for _, sub := range p.GetSubscribedTracks() {
		t := sub.DownTrack()
		switch {
		// Until the listener has answered which codec it takes, LiveKit has no sender of the
		// picture to ask for its sizes, and would crash.
		case t == nil || !sub.IsBound() || t.Kind() != webrtc.RTPCodecTypeVideo || t.IsClosed():
		case t.IsDeficient():
			return nil
		case t.DistanceToDesired() > 0:
			out = append(out, t)
		}
	}
	return out
}
