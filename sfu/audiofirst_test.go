package sfu

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtcp"
)

// listening has a listener's line lose a part of fifty packets a second, once a second,
// and returns what the pictures may have, for each second.
func listening(p *priority, from, seconds int, pictures bool, lost func(second int) uint64) (out []int32) {
	for i := from; i < from+seconds; i++ {
		out = append(out, p.largest(time.Unix(int64(i), 0), 50, lost(i), pictures))
	}
	return out
}

func always(n uint64) func(int) uint64 { return func(int) uint64 { return n } }

func runs(in []int32, of int32) (out []int) {
	for i, x := range in {
		switch {
		case x != of:
		case i > 0 && in[i-1] == of:
			out[len(out)-1]++
		default:
			out = append(out, 1)
		}
	}
	return out
}

func TestAudioFirstStopsPictures(t *testing.T) {
	var p priority
	// Half of the sound is lost while there are pictures.
	got := listening(&p, 0, 12, true, always(25))
	want := []int32{2, 2, -1}
	if i := slices.Index(got, -1); i < 3 || i > 6 {
		t.Fatalf("stopped after %d seconds: %v", i, got)
	} else if !slices.Equal(got[i-2:i+1], want) {
		t.Fatalf("%v", got)
	}
	// Now it is good for long. They go on, small at first.
	got = append(got, listening(&p, 12, 30, true, always(0))...)
	if r := runs(got, -1); !slices.Equal(r, []int{5}) {
		t.Errorf("stopped for %v seconds: %v", r, got)
	}
	if r := runs(got, 0); !slices.Equal(r, []int{5}) {
		t.Errorf("small for %v seconds: %v", r, got)
	}
	if got[len(got)-1] != allSizes {
		t.Errorf("%v", got)
	}
}

func TestAudioFirstPauses(t *testing.T) {
	var p priority
	got := listening(&p, 0, 200, true, always(20))
	if r := runs(got, -1); len(r) < 5 || !slices.Equal(r[:5], []int{5, 10, 20, 40, 40}) {
		t.Errorf("stopped for %v seconds", r)
	}
	// A good minute, and it begins anew.
	listening(&p, 200, 110, true, always(0))
	got = listening(&p, 310, 10, true, always(20))
	if r := runs(got, -1); len(r) != 1 || r[0] != 5 {
		t.Errorf("after a good minute stopped for %v seconds", r)
	}
}

func TestAudioFirstLeavesPictures(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	random := func(int) (n uint64) {
		for range 50 {
			if draw.Float64() < 0.05 {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		name     string
		pictures bool
		lost     func(int) uint64
	}{
		{"one in twenty, by chance", true, random},
		{"one in ten", true, always(5)},
		{"no pictures", false, always(25)},
		{"a second of twenty", true, func(i int) uint64 {
			if i%20 == 0 {
				return 50
			}
			return 0
		}},
	} {
		var p priority
		if got := listening(&p, 0, 3600, c.pictures, c.lost); slices.ContainsFunc(got, func(x int32) bool { return x != allSizes }) {
			t.Errorf("%s: held back for %v", c.name, runs(got, -1))
		}
	}
	// A cut: no reports for eight seconds, then one of all that was lost.
	var p priority
	for i := range 60 {
		expected, lost := uint64(50), uint64(0)
		switch {
		case i >= 20 && i < 28:
			expected = 0
		case i == 28:
			expected, lost = 450, 400
		}
		if got := p.largest(time.Unix(int64(i), 0), expected, lost, true); got != allSizes {
			t.Fatalf("held back after a cut, at %d s", i)
		}
	}
	// Hardly any sound: what is lost of a few packets tells nothing.
	p = priority{}
	for i := range 40 {
		if got := p.largest(time.Unix(int64(i), 0), 2, 1, true); got != allSizes {
			t.Fatalf("held back by %d packets", 2*i)
		}
	}
}

func TestLosses(t *testing.T) {
	var r losses
	for i, c := range []struct {
		number, total  uint32
		expected, lost uint64
	}{
		{1000, 7, 0, 0}, // the first tells where it begins
		{1050, 12, 50, 5},
		{1050, 12, 0, 0},
		{1020, 10, 0, 0}, // a late one
		{1100, 8, 80, 0}, // fewer than before
		{1 << 31, 8, 0, 0},
		{1<<31 + 50, 1<<24 - 1, 50, 0},
		{1<<31 + 100, 3, 50, 4}, // full
		{1<<31 + 110, 900, 10, 10},
		{1<<32 - 1, 900, 0, 0},
		{49, 901, 50, 1},
	} {
		r.add(rtcp.ReceptionReport{LastSequenceNumber: c.number, TotalLost: c.total})
		if expected, lost := r.take(); expected != c.expected || lost != c.lost {
			t.Errorf("%d: %d of %d, want %d of %d", i, lost, expected, c.lost, c.expected)
		}
	}
}
