package sfu

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/livekit-server/pkg/sfu"
	"github.com/livekit/livekit-server/pkg/sfu/buffer"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
)

// Bitrates have limits in two ways. Browsers are told of them in the answers to their
// offers (RFC 3890), and send no more; that is advice, and not every client takes it. So
// the relay also measures what comes, and passes on the sizes of a picture that fit: what
// nobody gets, a client that knows dynacast stops sending. A picture of which not even
// the smallest size fits is not passed on at all. Sound is never held back: of what one
// listener may get, pictures share what sound leaves, and where a line is too narrow for
// both, pictures are stopped (audiofirst.go).

// capEvery is how often it is measured. LiveKit's figures are a second old.
const capEvery = time.Second

// remember is how long the bitrate of a size counts that is not sent any more. After
// that it is tried again.
const remember = 30 * time.Second

// headers is what a packet has besides the payload that LiveKit counts, about.
const headers = 1.05

// caps are limits in bits a second; 0: none.
type caps struct {
	camera, screen, received int64
	audioFirst               bool // see audiofirst.go
}

func (o Options) caps() caps {
	const kilo = 1000
	return caps{int64(o.MaxVideoKbps) * kilo, int64(o.MaxScreenKbps) * kilo, int64(o.MaxReceivedKbps) * kilo, o.AudioFirst}
}

// advice is what one may send in pictures, in bits a second; 0: anything.
func (c caps) advice(screen bool) int64 {
	switch {
	case !screen:
		return c.camera
	case c.camera == 0 || c.screen == 0:
		return 0
	}
	// One limit for all that a connection carries: browsers keep a single one.
	return c.camera + c.screen
}

// sizes are the bitrates of a picture's sizes, from the smallest on; 0: not known.
type sizes [buffer.DefaultMaxLayerSpatial + 1]int64

// pictureKey names what is measured. A picture may be sent in two codecs.
type pictureKey struct {
	track livekit.TrackID
	codec string
}

// capper holds pictures to the limits.
type capper struct {
	caps
	sent  map[pictureKey]*sent
	heard map[*sfu.DownTrack]uint64       // bytes of sound so far
	held  map[*sfu.DownTrack]restrictions // those that get less than their listeners want

	losses map[*sfu.DownTrack]*losses
	lines  map[livekit.ParticipantID]*downlink
}

// downlink is what is known of a listener's line.
type downlink struct {
	priority priority // see audiofirst.go
	narrow   narrow   // see narrow.go
	stuck    stuck
}

// sent is what was measured of a picture.
type sent struct {
	rate sizes
	at   [buffer.DefaultMaxLayerSpatial + 1]time.Time
	seen bool // in this round
}

// restrictions are those of a picture that a listener gets.
type restrictions struct {
	want    int32 // the largest size that it asked for
	ours    int32 // the largest that it may get
	stopped bool
}

// holdBitrates keeps to the limits until the relay stops.
func (e *engine) holdBitrates(p *presence, c caps) {
	k := &capper{caps: c, sent: map[pictureKey]*sent{}}
	tick := time.NewTicker(capEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-e.done:
			return
		case now := <-tick.C:
			k.round(e, p.shared(), now, now.Sub(last))
			last = now
		}
	}
}

// round looks at all listeners.
func (k *capper) round(e *engine, rooms []string, now time.Time, passed time.Duration) {
	for _, s := range k.sent {
		s.seen = false
	}
	was := *k // what is not found again is forgotten
	k.heard, k.held = map[*sfu.DownTrack]uint64{}, map[*sfu.DownTrack]restrictions{}
	k.losses, k.lines = map[*sfu.DownTrack]*losses{}, map[livekit.ParticipantID]*downlink{}
	for _, name := range rooms {
		room := e.rooms.GetRoom(context.Background(), livekit.RoomName(name))
		if room == nil {
			continue
		}
		for _, p := range room.GetParticipants() {
			k.listener(p, &was, now, passed)
		}
	}
	for key, s := range k.sent {
		if !s.seen {
			delete(k.sent, key)
		}
	}
	for id := range was.lines {
		if k.lines[id] == nil {
			congestion.forget(id)
		}
	}
}

// picture is one that a listener gets.
type picture struct {
	id     livekit.TrackID
	sub    types.SubscribedTrack
	track  *sfu.DownTrack
	screen bool
	rate   sizes
	most   int32 // the largest size that its own limit and the listener's wish allow
	was    restrictions
	held   bool
}

func (k *capper) listener(p types.LocalParticipant, before *capper, now time.Time, passed time.Duration) {
	var all []*picture
	var sound int64                                         // bits a second
	var ofSound, ofPictures struct{ expected, lost uint64 } // packets
	pictures := false                                       // that are sent
	look := func(t *sfu.DownTrack) (expected, lost uint64) {
		r := before.losses[t]
		if r == nil {
			r = newLosses(t)
		}
		k.losses[t] = r
		return r.take()
	}
	for _, sub := range p.GetSubscribedTracks() {
		t := sub.DownTrack()
		if t == nil || !sub.IsBound() || t.IsClosed() {
			continue
		}
		if t.Kind() == webrtc.RTPCodecTypeAudio {
			if k.received > 0 {
				st := t.GetTrackStats()
				k.heard[t] = st.GetBytes() + st.GetHeaderBytes()
				if was, ok := before.heard[t]; ok && k.heard[t] > was {
					sound += int64(float64(k.heard[t]-was) * 8 / passed.Seconds())
				}
			}
			expected, lost := look(t)
			ofSound.expected, ofSound.lost = ofSound.expected+expected, ofSound.lost+lost
			continue
		}
		expected, lost := look(t)
		ofPictures.expected, ofPictures.lost = ofPictures.expected+expected, ofPictures.lost+lost
		x := &picture{id: sub.ID(), sub: sub, track: t, screen: sub.MediaTrack().Source() == livekit.TrackSource_SCREEN_SHARE}
		if k.camera > 0 || k.screen > 0 || k.received > 0 {
			x.rate = k.measure(sub, now)
		}
		x.was, x.held = before.held[t]
		want := t.MaxLayer().Spatial
		if x.held && want == x.was.ours {
			want = x.was.want
		}
		x.was.want = want
		limit := k.camera
		if x.screen {
			limit = k.screen
		}
		x.most = fits(x.rate, limit, want)
		if !sub.IsMuted() {
			all = append(all, x)
			pictures = pictures || !sub.MediaTrack().IsMuted()
		} else if x.held {
			k.held[t] = x.was
		}
	}
	share(all, k.received, sound)
	line, id := &downlink{}, p.ID()
	if l := before.lines[id]; l != nil {
		line = l
	}
	k.lines[id] = line
	largest := line.narrow.largest(now, ofPictures.expected, ofPictures.lost, func() int32 {
		size := int32(-1)
		for _, x := range all {
			size = max(size, forwarded(x.track))
		}
		return size
	})
	if k.audioFirst {
		largest = min(largest, line.priority.largest(now, ofSound.expected, ofSound.lost, pictures))
	}
	if line.stuck.anew(now, congestion.has(id), ofSound.expected+ofPictures.expected, ofSound.lost+ofPictures.lost) {
		estimateAnew(p)
	}
	for _, x := range all {
		x.most = min(x.most, largest)
		if r, holds := x.apply(); holds {
			k.held[x.track] = r
		}
	}
}

// measure is what a picture's sizes take now, took when they were sent last, or will
// take by what the publisher said of them.
func (k *capper) measure(sub types.SubscribedTrack, now time.Time) sizes {
	t, media := sub.DownTrack(), sub.MediaTrack()
	key := pictureKey{media.ID(), t.Mime().String()}
	s := k.sent[key]
	if s == nil {
		s = &sent{}
		k.sent[key] = s
	}
	if s.seen {
		return s.rate
	}
	s.seen = true
	_, rates := t.Receiver().GetLayeredBitrate()
	info := media.ToProto()
	for i := range s.rate {
		r := int64(float64(slices.Max(rates[i][:])) * headers)
		switch {
		case r >= s.rate[i] && r > 0:
			s.rate[i], s.at[i] = r, now
		case r > 0: // bitrates go up and down: the higher one counts for longer
			s.rate[i], s.at[i] = s.rate[i]-(s.rate[i]-r)/8, now
		case now.Sub(s.at[i]) > remember:
			s.rate[i] = declared(info, t, int32(i))
		}
	}
	return s.rate
}

// declared is what the publisher said that a size will take.
func declared(info *livekit.TrackInfo, t *sfu.DownTrack, size int32) int64 {
	for _, l := range info.GetLayers() {
		if buffer.GetSpatialLayerForVideoQuality(t.Mime(), l.Quality, info) == size {
			return int64(l.Bitrate)
		}
	}
	return 0
}

// fits is the largest size up to want that takes no more than limit; -1: none does.
func fits(rate sizes, limit int64, want int32) int32 {
	if limit == 0 {
		return want
	}
	out := int32(-1)
	for i := int32(0); i <= want && int(i) < len(rate) && rate[i] <= limit; i++ {
		out = i
	}
	return out
}

// share lowers the pictures until all that a listener gets is within its limit: each
// gets its smallest size before one gets a larger, and a shared screen comes first.
func share(all []*picture, limit, sound int64) {
	if limit == 0 {
		return
	}
	slices.SortStableFunc(all, func(a, b *picture) int {
		if a.screen != b.screen {
			if a.screen {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.id, b.id)
	})
	left := limit - sound
	gets := make([]int32, len(all))
	for i := range gets {
		gets[i] = -1
	}
	for size := int32(0); size <= buffer.DefaultMaxLayerSpatial; size++ {
		for i, x := range all {
			if size > x.most || gets[i] != size-1 {
				continue
			}
			more := x.rate[size]
			if size > 0 {
				more -= x.rate[size-1]
			}
			if more <= left {
				gets[i] = size
				left -= max(more, 0)
			}
		}
	}
	for i, x := range all {
		x.most = min(x.most, gets[i])
	}
}

// apply has the listener get no more than most. It reports whether that holds it back.
func (x *picture) apply() (restrictions, bool) {
	r := restrictions{want: x.was.want, ours: max(x.most, 0), stopped: x.most < 0}
	if r.stopped || x.was.stopped {
		x.sub.SetPublisherMuted(r.stopped || x.sub.MediaTrack().IsMuted())
	}
	if r.ours < r.want {
		x.track.SetMaxSpatialLayer(r.ours)
		return r, true
	}
	if x.held && x.was.ours < x.was.want {
		// Its listener may have asked for something else meanwhile.
		x.track.SetMaxSpatialLayer(r.want)
		x.sub.UpdateVideoLayer()
	}
	return r, r.stopped
}
