package identity

import (
	"net"
	"net/http"
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
	if l.m == nil || len(l.m) >= maxAddresses {
		l.m = map[string]allowance{}
	}
	a, ok := l.m[from]
	if !ok {
		a = allowance{registerBurst, now}
	}
	a.left = min(registerBurst, a.left+now.Sub(a.at).Seconds()/registerPeriod.Seconds())
	a.at = now
	if a.left < 1 {
		wait = time.Duration((1 - a.left) * float64(registerPeriod))
	} else {
		a.left--
	}
	l.m[from] = a
	return wait
}
