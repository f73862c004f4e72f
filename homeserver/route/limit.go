package route

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"holdfast/homeserver/mx"
)

// rates are tokens a second and how many may be saved up, by bucket.
var rates = map[Limit]rate{
	Reads:      {50, 500},
	Messages:   {10, 50},
	Membership: {2, 30},
	Logins:     {0.5, 10},
	Uploads:    {2, 30},
	Reports:    {0.1, 20},
	Rendezvous: {0.2, 20},
	Previews:   {1, 100},
}

// rate is tokens a second, and how many may be saved up.
type rate struct{ perSecond, burst float64 }

type limiter struct {
	mu      sync.Mutex
	buckets map[limitKey]*bucket
	swept   time.Time
	// own gives a user's own limit of messages; perSecond 0: nothing limits the user.
	own func(userID string) (perSecond, burst float64, own bool) // nil: nobody has one
}

type limitKey struct {
	limit Limit
	who   string
}

type bucket struct {
	tokens float64
	at     time.Time
}

// maxIdle is how long an untouched bucket is kept; every bucket is full by then.
const maxIdle = 10 * time.Minute

func newLimiter() *limiter { return &limiter{buckets: map[limitKey]*bucket{}, swept: time.Now()} }

// devicesOfUser is how many of a user's devices may be as busy as one may be, for the
// requests that devices make by themselves: one that runs wild leaves room for others.
const devicesOfUser = 3

// allow takes one token from each of the caller's buckets: the device's and the
// user's, or the address's where nobody is signed in.
func (l *limiter) allow(r *Request) error {
	if l == nil || r.Route.Limit == Unlimited || r.Unlimited {
		return nil
	}
	limit := r.Route.Limit
	if l.own != nil && r.UserID != "" {
		switch perSecond, burst, own := l.own(r.UserID); {
		case own && perSecond == 0:
			return nil
		case own && limit == Messages: // for all devices together
			return l.takeAt(limit, rate{perSecond, max(burst, 1)}, who{r.UserID, 1})
		}
	}
	switch {
	case r.UserID == "":
		return l.take(limit, who{addressOf(r.RemoteAddr), 1})
	case limit == Reads || limit == Messages:
		return l.take(limit, who{r.UserID + " " + r.DeviceID, 1}, who{r.UserID, devicesOfUser})
	}
	return l.take(limit, who{r.UserID, 1})
}

// wrongToken is allow for somebody whose token is none.
func (l *limiter) wrongToken(r *Request) error {
	if l == nil {
		return nil
	}
	return l.take(Reads, who{addressOf(r.RemoteAddr), 1})
}

// addressOf is what of a network address one person has: of IPv6 the first 64 bits.
func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() && !ip.Is4In6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return host
}

// who is the owner of a bucket, which holds times as much as usual.
type who struct {
	name  string
	times float64
}

// take takes one token from each bucket, or from none.
func (l *limiter) take(limit Limit, owners ...who) error {
	return l.takeAt(limit, rates[limit], owners...)
}

// takeAt is take at another rate than the usual one.
func (l *limiter) takeAt(limit Limit, rate rate, owners ...who) error {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) > maxIdle {
		for k, b := range l.buckets {
			if now.Sub(b.at) > maxIdle {
				delete(l.buckets, k)
			}
		}
		l.swept = now
	}
	var wait time.Duration
	list := make([]*bucket, len(owners))
	for i, o := range owners {
		k := limitKey{limit, o.name}
		b := l.buckets[k]
		if b == nil {
			b = &bucket{tokens: rate.burst * o.times, at: now}
			l.buckets[k] = b
		}
		b.tokens = min(rate.burst*o.times, b.tokens+now.Sub(b.at).Seconds()*rate.perSecond*o.times)
		b.at = now
		if b.tokens < 1 {
			wait = max(wait, time.Duration((1-b.tokens)/(rate.perSecond*o.times)*float64(time.Second)), time.Millisecond)
		}
		list[i] = b
	}
	if wait > 0 {
		return &mx.Error{Code: mx.LimitExceeded, Msg: "Too many requests. Try again in a moment.", RetryAfter: wait}
	}
	for _, b := range list {
		b.tokens--
	}
	return nil
}
