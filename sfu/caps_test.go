package sfu

import (
	"slices"
	"strings"
	"testing"

	"github.com/livekit/protocol/livekit"
)

func TestFits(t *testing.T) {
	rate := sizes{100, 400, 1700}
	for _, c := range []struct {
		limit int64
		want  int32
		out   int32
	}{
		{0, 2, 2}, {0, 0, 0}, {50, 2, -1}, {100, 2, 0}, {399, 2, 0}, {400, 2, 1}, {400, 0, 0}, {5000, 2, 2}, {5000, -1, -1},
	} {
		if got := fits(rate, c.limit, c.want); got != c.out {
			t.Errorf("fits(%d, %d) = %d, want %d", c.limit, c.want, got, c.out)
		}
	}
}

// A larger size of one picture waits until each has its smallest.
func TestShare(t *testing.T) {
	sizesOf := func(all []*picture) (out []int32) {
		for _, x := range all {
			out = append(out, x.most)
		}
		return out
	}
	for _, c := range []struct {
		limit, sound int64
		out          []int32 // the screen's first
	}{
		{0, 1000, []int32{2, 1, 2}},      // no limit
		{10_000, 100, []int32{2, 1, 2}},  // enough
		{700, 100, []int32{0, 0, 0}},     // 300+100+100, and 300 more fit neither
		{800, 0, []int32{0, 1, 0}},       // the second one takes 300 more
		{450, 100, []int32{0, -1, -1}},   // the screen first
		{300, 50, []int32{-1, 0, 0}},     // where it has no place, the cameras may
		{300, 300, []int32{-1, -1, -1}},  // sound takes all
		{300, 9999, []int32{-1, -1, -1}}, // and more
		{2300, 100, []int32{2, 1, 0}},    // 1500, 400, 100; its third size takes no more than the second
		{2600, 100, []int32{2, 1, 1}},    // 1500, 400, 400
	} {
		all := []*picture{
			{screen: true, rate: sizes{300, 1500, 1500}, most: 2},
			{rate: sizes{100, 400, 1700}, most: 1}, // its listener wants no more
			{rate: sizes{100, 400, 1700}, most: 2},
		}
		for i, x := range all {
			x.id = livekit.TrackID(rune('a' + i))
		}
		share(all, c.limit, c.sound)
		if got := sizesOf(all); !slices.Equal(got, c.out) {
			t.Errorf("%d, of which sound takes %d: %v, want %v", c.limit, c.sound, got, c.out)
		}
	}
}

func TestAdvice(t *testing.T) {
	for _, c := range []struct {
		o      Options
		screen bool
		out    int64
	}{
		{Options{}, false, 0}, {Options{}, true, 0},
		{Options{MaxVideoKbps: 600}, false, 600_000}, {Options{MaxVideoKbps: 600}, true, 0},
		{Options{MaxVideoKbps: 600, MaxScreenKbps: 2000}, false, 600_000},
		{Options{MaxVideoKbps: 600, MaxScreenKbps: 2000}, true, 2_600_000},
		{Options{MaxReceivedKbps: 600}, true, 0},
	} {
		if got := c.o.caps().advice(c.screen); got != c.out {
			t.Errorf("%+v, screen %v: %d, want %d", c.o, c.screen, got, c.out)
		}
	}
	const sdp = "v=0\r\nc=IN IP4 0.0.0.0\r\nm=audio 9 UDP 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\nm=video 9 UDP 96\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\nm=application 9 UDP x\r\nc=IN IP4 0.0.0.0\r\n"
	if got := limited(sdp, 0); got != sdp {
		t.Errorf("no limit: %q", got)
	}
	want := strings.Replace(sdp, "0.0.0.0\r\na=mid:1", "0.0.0.0\r\nb=AS:601\r\nb=TIAS:600500\r\na=mid:1", 1)
	if got := limited(sdp, 600_500); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
