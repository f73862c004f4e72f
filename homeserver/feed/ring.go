package feed

import (
	"sort"
	"sync"

	"holdfast/store"
)

// ring has the touches of the last commits, in the order of their positions.
type ring struct {
	mu    sync.RWMutex
	buf   []store.Touch
	floor int64 // every touch after this position is held
}

// ringSize is how many touches are held at least, once there were so many.
const ringSize = 1 << 14

func (r *ring) init() { r.buf = make([]store.Touch, 0, 2*ringSize) }

// raise declares what came up to pos as not held.
func (r *ring) raise(pos int64) {
	r.mu.Lock()
	r.floor = max(r.floor, pos)
	r.mu.Unlock()
}

func (r *ring) add(touched []store.Touch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.buf)+len(touched) > cap(r.buf) {
		cut := max(0, len(r.buf)-ringSize)
		if len(touched) >= ringSize {
			cut = len(r.buf)
		}
		if cut > 0 {
			r.floor = max(r.floor, r.buf[cut-1].Pos)
		}
		r.buf = append(make([]store.Touch, 0, 2*ringSize), r.buf[cut:]...)
		if n := len(touched) - ringSize; n > 0 {
			r.floor = max(r.floor, touched[n-1].Pos)
			touched = touched[n:]
		}
	}
	r.buf = append(r.buf, touched...)
}

// each calls f for the touches of (from, to]. It returns false, without a call,
// when some of them are not held any more.
func (r *ring) each(from, to int64, f func(t *store.Touch)) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if from < r.floor {
		return false
	}
	i := len(r.buf)
	if i > 0 && r.buf[i-1].Pos > from {
		i = sort.Search(len(r.buf), func(i int) bool { return r.buf[i].Pos > from })
	}
	for ; i < len(r.buf) && r.buf[i].Pos <= to; i++ {
		f(&r.buf[i])
	}
	return true
}
