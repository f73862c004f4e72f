package audit

import (
	"math/bits"
	"sync"
	"time"
)

// What strangers cause is noted so often at once, and then once in a while: about 500 kB
// a day at most, however many they are.
const (
	boundBurst = 200
	boundEvery = time.Minute
	boundKeys  = 4096           // whose number is remembered
	boundAfter = 24 * time.Hour // a key that was quiet is new again
)

type seen struct {
	n    int64
	last time.Time
}

// bound decides what of that is noted. It is in memory: a start forgets.
type bound struct {
	mu      sync.Mutex
	keys    map[string]seen
	budget  float64
	filled  time.Time
	skipped int64
}

// take counts one, and says whether to note it, how often the key was seen, and how many
// of all were not noted since the last that was.
func (b *bound) take(key string, now time.Time) (note bool, times, skipped int64) {
	key = cut(key, maxName)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keys == nil {
		b.keys, b.budget, b.filled = map[string]seen{}, boundBurst, now
	}
	if d := now.Sub(b.filled); d > 0 {
		b.budget = min(boundBurst, b.budget+float64(d)/float64(boundEvery))
	}
	b.filled = now
	k := b.keys[key]
	if now.Sub(k.last) > boundAfter {
		k.n = 0
	}
	k.n, k.last = k.n+1, now
	if _, known := b.keys[key]; known || len(b.keys) < boundKeys {
		b.keys[key] = k
	} else {
		for old := range b.keys { // any: who floods has many
			delete(b.keys, old)
			break
		}
		b.keys[key] = k
	}
	if bits.OnesCount64(uint64(k.n)) != 1 || b.budget < 1 {
		b.skipped++
		return false, k.n, 0
	}
	b.budget--
	skipped, b.skipped = b.skipped, 0
	return true, k.n, skipped
}
