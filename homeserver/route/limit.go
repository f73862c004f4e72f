package route

import (
	"net"
	"sync"
	"time"

	"holdfast/homeserver/mx"
)

// rates are tokens a second and how many may be saved up, by bucket.
var rates = map[Limit]struct{ perSecond, burst float64 }{
	Reads:      {50, 500},
	Messages:   {10, 50},
	Membership: {2, 30},
	Logins:     {0.5, 10},
	Uploads:    {2, 30},
	Reports:    {0.1, 20},
}

type limiter struct {
	mu      sync.Mutex
	buckets map[limitKey]*bucket
	swept   time.Time
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

// allow takes one token from the caller's bucket: the user's, or the address's
// where nobody is signed in. Application services are not limited.
func (l *limiter) allow(r *Request) error {
	if l == nil || r.Route.Limit == Unlimited || r.Appservice != "" {
		return nil
	}
	who := r.UserID
	if who == "" {
		who, _, _ = net.SplitHostPort(r.RemoteAddr)
	}
	now, rate := time.Now(), rates[r.Route.Limit]
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
	k := limitKey{r.Route.Limit, who}
	b := l.buckets[k]
	if b == nil {
		b = &bucket{tokens: rate.burst, at: now}
		l.buckets[k] = b
	}
	b.tokens = min(rate.burst, b.tokens+now.Sub(b.at).Seconds()*rate.perSecond)
	b.at = now
	if b.tokens < 1 {
		wait := time.Duration((1 - b.tokens) / rate.perSecond * float64(time.Second))
		return &mx.Error{Code: mx.LimitExceeded, Msg: "Too many requests. Try again in a moment.", RetryAfter: max(wait, time.Millisecond)}
	}
	b.tokens--
	return nil
}
