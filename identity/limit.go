package identity

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"holdfast/identity/account"
)

// Registrations an address may make: a burst, then one every period. An office
// behind one address has to get its applications in.
const (
	registerBurst  = 60
	registerPeriod = 10 * time.Second
	maxAddresses   = 10_000
)

// limiter counts, by address, registrations or what else may come as often.
type limiter struct {
	mu sync.Mutex
	m  map[string]allowance
}

type allowance struct {
	left float64
	at   time.Time
}

// allow takes one from an address's allowance, or says how long to wait.
func (l *limiter) allow(r *http.Request, now time.Time) (wait time.Duration) {
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	from = account.Network(from)
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.m[from]
	if !ok {
		l.makeRoom(now)
		a = allowance{registerBurst, now}
	}
	a.left, a.at = a.by(now), now
	if a.left < 1 {
		wait = time.Duration((1 - a.left) * float64(registerPeriod))
	} else {
		a.left--
	}
	l.m[from] = a
	return wait
}

// by is what is left at a time.
func (a allowance) by(now time.Time) float64 {
	return min(registerBurst, a.left+now.Sub(a.at).Seconds()/registerPeriod.Seconds())
}

// makeRoom forgets addresses when there are too many: half of them, those that have most
// left. Who used theirs up does not get another by coming from many.
func (l *limiter) makeRoom(now time.Time) {
	if l.m == nil {
		l.m = map[string]allowance{}
	}
	if len(l.m) < maxAddresses {
		return
	}
	all := make([]string, 0, len(l.m))
	for from := range l.m {
		all = append(all, from)
	}
	slices.SortFunc(all, func(x, y string) int { return cmp.Compare(l.m[y].by(now), l.m[x].by(now)) })
	for _, from := range all[:len(all)/2] {
		delete(l.m, from)
	}
}
