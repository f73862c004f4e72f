// Package sliding is simplified sliding sync: a client says which rooms it looks at
// and what it wants of each, and gets what changed in these. One engine has two
// forms: POST /_matrix/client/v4/sync of MSC4186, and the unstable one that shipped
// clients use.
//
// Invariants:
//   - An answer to a pos holds all that changed since that pos in what the request
//     shows; nothing is noted as sent before the client came back with the answer's
//     own pos, and a lost answer is given again: the same for the same request.
//   - A connection survives a restart. After a crash the client gets some of what it
//     has a second time, but misses nothing.
//   - What is remembered is bounded, for each connection and for each device.
//   - Whether the user may see a room is looked at anew for every answer.
package sliding

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"holdfast/homeserver/feed"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/threads"
	"holdfast/homeserver/timeline"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// Options of New.
type Options struct {
	DB       *store.DB
	Feed     *feed.Feed
	Rooms    *rooms.Rooms
	Timeline *timeline.Timeline
	Userdata *userdata.Service
	Threads  *threads.Service
	// Synced notes the presence that a device asked for. nil: nobody asks.
	Synced func(ctx context.Context, userID, deviceID, setPresence string) error
	Log    *slog.Logger
}

// Service answers sliding sync. Its methods are safe for concurrent use.
type Service struct {
	o Options

	mu    sync.Mutex
	conns map[key]*conn

	kinds kinds
	bumps bumps

	stop chan struct{}
	done chan struct{}
}

// Times of keeping: unused connections leave the memory, changed ones go to disk.
const (
	idleFor   = 10 * time.Minute
	saveEvery = 10 * time.Second
)

// New makes a Service. Close it before the feed and the store.
func New(o Options) *Service {
	s := &Service{o: o, conns: map[key]*conn{}, stop: make(chan struct{}), done: make(chan struct{})}
	s.kinds.init()
	s.bumps.init()
	go s.keep()
	return s
}

// Close stores what is not stored yet.
func (s *Service) Close() {
	select {
	case <-s.stop:
		return
	default:
	}
	close(s.stop)
	<-s.done
	s.save(time.Now())
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	return []route.Route{
		{Op: "slidingSync", Pattern: "POST /_matrix/client/v4/sync", Auth: route.User, Limit: route.Reads, Waits: true, Handle: route.JSON(s.stable)},
		{Op: "slidingSyncUnstable", Pattern: "POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync", Auth: route.User, Limit: route.Reads, Waits: true, Handle: route.JSON(s.unstable)},
	}
}

func (s *Service) stable(ctx context.Context, r *route.Request, in wire) (any, error) {
	return s.sync(ctx, r, in, true)
}

func (s *Service) unstable(ctx context.Context, r *route.Request, in wire) (any, error) {
	return s.sync(ctx, r, in, false)
}

// DeviceDeleted forgets a device's connections.
func (s *Service) DeviceDeleted(tx *store.Tx, userID, deviceID string) error {
	_, err := tx.Exec(deleteConnections, userID, deviceID)
	tx.AfterCommit(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for k, c := range s.conns {
			if k.user == userID && k.device == deviceID {
				delete(s.conns, k)
				go c.end()
			}
		}
	})
	return err
}

// end makes a connection that nobody finds any more store nothing.
func (c *conn) end() {
	c.turn(func() {})
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
}

// turn ends the request that holds the connection, and puts cancel in its place. The
// number tells, by holds, whether another has come since.
func (c *conn) turn(cancel context.CancelFunc) int64 {
	c.turnMu.Lock()
	defer c.turnMu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
	c.cancel = cancel
	c.holder++
	return c.holder
}

func (c *conn) holds(number int64) bool {
	c.turnMu.Lock()
	defer c.turnMu.Unlock()
	return c.holder == number
}

// conn finds or makes a connection.
func (s *Service) conn(k key) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[k]
	if c == nil {
		c = &conn{key: k}
		s.conns[k] = c
		n, oldest := 0, c
		for o, other := range s.conns {
			if o.user == k.user && o.device == k.device && other != c {
				if n++; oldest == c || other.used < oldest.used {
					oldest = other
				}
			}
		}
		if n >= maxConnections {
			delete(s.conns, oldest.key)
			go oldest.end()
		}
	}
	c.used = time.Now().UnixNano()
	return c
}

func (s *Service) sync(ctx context.Context, r *route.Request, in wire, stable bool) (any, error) {
	begun := time.Now()
	q, err := parse(r, in, stable)
	if err != nil {
		return nil, err
	}
	if s.o.Synced != nil {
		if err := s.o.Synced(ctx, r.UserID, r.DeviceID, q.presence); err != nil {
			return nil, err
		}
	}
	if t := q.ext.Threads; t != nil && t.Enabled {
		if err := s.o.Threads.Use(ctx, r.UserID); err != nil {
			return nil, err
		}
	}
	c := s.conn(key{r.UserID, r.DeviceID, q.connID})
	mine, cancel := context.WithCancel(ctx)
	defer cancel()
	number := c.turn(cancel)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.holds(number) {
		return nil, errReplaced()
	}
	if !c.loaded && q.pos != "" {
		if err := s.o.DB.Read(ctx, c.load); err != nil {
			return nil, err
		}
	}
	again, err := c.advance(q, s.o.DB.Pos())
	if err != nil {
		return nil, err
	}
	if again {
		return body(c.replay), nil
	}
	session := s.o.Feed.Open(r.UserID, r.DeviceID)
	defer session.Close()
	var since int64
	if d := q.ext.ToDevice; d != nil && d.Enabled && d.Since != "" {
		t, err := timeline.ParseToken(d.Since)
		if err != nil {
			return nil, err
		}
		if since = t.Pos; since <= s.o.DB.Pos() {
			if err := session.Acknowledge(ctx, since); err != nil {
				return nil, err
			}
		} else {
			since = 0 // of another life of this database
		}
	}
	for {
		var a *answer
		err := session.Look(context.WithoutCancel(ctx), func(l *feed.Look) error {
			a = &answer{Look: l, s: s, c: c, r: q, user: r.UserID, device: r.DeviceID, since: since, n: c.Top + 1, now: time.Now().UnixMilli()}
			return a.make()
		})
		if err != nil {
			return nil, err
		}
		left := q.timeout - time.Since(begun)
		if !a.empty || left <= 0 || q.pos == "" || c.shape != q.shape || ctx.Err() != nil {
			out := a.finish()
			c.commit(a.next, a.begun, a.To, a.n)
			c.shape, c.counts, c.direct = q.shape, a.counts, a.direct
			if a.told {
				c.counts = nil
			}
			c.replay, c.replayOf = nil, q.shape
			if len(out) <= maxReplay {
				c.replay = out
			}
			return body(out), nil
		}
		c.mu.Unlock() // it may be stored, or taken by another request
		session.Wait(mine, a.To, left)
		c.mu.Lock()
		if ctx.Err() != nil {
			// The client is gone, or the server stops: answer at once with what there is.
			mine = context.WithoutCancel(mine)
		}
		if !c.holds(number) { // also where its client went: it must not answer over the other
			return nil, errReplaced()
		}
	}
}

func errReplaced() error {
	return &mx.Error{Code: mx.Unknown, Status: http.StatusConflict, Msg: "Another request of this connection has taken the place of this one."}
}

func body(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Write(b)
	}
}

// keep stores and forgets connections as time goes by.
func (s *Service) keep() {
	defer close(s.done)
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	expired := time.Time{}
	for {
		select {
		case <-s.stop:
			return
		case now := <-t.C:
			s.save(now)
			if now.Sub(expired) > time.Hour {
				expired = now
				if err := s.o.DB.Write(context.Background(), func(tx *store.Tx) error {
					_, err := tx.Exec(expireConnections, now.Add(-keepFor).UnixMilli())
					return err
				}); err != nil {
					s.o.Log.Warn("old sliding sync connections were not removed", "err", err)
				}
			}
		}
	}
}

// save stores the connections that changed and lets go those that are not used.
func (s *Service) save(now time.Time) {
	s.mu.Lock()
	list := make([]*conn, 0, len(s.conns))
	for k, c := range s.conns {
		list = append(list, c)
		if c.used < now.Add(-idleFor).UnixNano() && c.mu.TryLock() {
			if !c.dirty {
				delete(s.conns, k)
				c.gone = true
			}
			c.mu.Unlock()
		}
	}
	s.mu.Unlock()
	for _, c := range list {
		if err := s.store(c, now); err != nil {
			s.o.Log.Warn("a sliding sync connection was not stored: its client may have to begin anew", "err", err)
			return
		}
	}
}

// store writes a connection that changed.
func (s *Service) store(c *conn, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dirty || c.gone || !c.loaded {
		return nil
	}
	err := s.o.DB.Write(context.Background(), func(tx *store.Tx) error { return c.save(tx, now.UnixMilli()) })
	if err == nil {
		c.dirty = false
	}
	return err
}
