// Package unifiedpush brings notifications to phones without the push services of
// their makers: a UnifiedPush push server with the HTTP API of ntfy, which the ntfy
// app and other distributors speak, and the Matrix push gateway before it.
//
// Topics are at the root of the host, below names that begin with "up" as the ntfy
// app makes them: apps are told nothing but the appliance's address, and clients
// look for the gateway at the root of the host that an endpoint is on. No page and
// no other API has such a path.
//
// Invariants: who subscribes shows the secret of a phone, which belongs to a person
// and, where it was given for one, ends with a device; the first phone to subscribe
// owns a topic, and whoever knows its name may publish to it, for the name is the
// endpoint's secret. What was taken is on disk before it is answered, and each
// subscriber reads it from there in order: a wake-up carries nothing, so memory is
// bounded by the number of connections. Only topics of this server are pushed to,
// unless an administrator allows others. Names of topics, secrets and bodies are
// not logged.
package unifiedpush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/push/webpush"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/sealed"
)

// Bounds.
const (
	maxMessage      = 4096 // bytes, as UnifiedPush has it
	maxNotify       = 64 << 10
	maxTopics       = 50  // of a phone, and of a request
	maxPhones       = 20  // of a person
	maxTopicQueue   = 100 // messages of a topic; the oldest goes
	maxPhoneQueue   = 500 // messages of a phone; the oldest goes
	pruneEvery      = 20  // messages
	maxQueued       = 256 << 20
	maxConnections  = 10_000
	maxOfPhone      = 8 // connections
	maxOfUser       = 32
	maxUnknown      = 4096 // topics without an owner that are remembered
	unknownFor      = time.Hour
	keepaliveEvery  = 45 * time.Second
	writeTime       = 20 * time.Second
	keepEnded       = 30 * 24 * time.Hour // what has ended is known as such
	unusedFor       = 90 * 24 * time.Hour // a topic that nobody subscribes to ends
	sweepEvery      = 5 * time.Minute
	sweepBatch      = 500
	seenExact       = time.Hour
	publishRate     = 5.0 // a second and topic, from outside
	publishBurst    = 100.0
	maxDevices      = 100 // of one notification
	forwardTimeout  = 20 * time.Second
	maxNameLen      = 100
	batchToRead     = 50
	defaultKeep     = 12 * time.Hour
	maxEndpoint     = 2048
	maxForwards     = 16
	minTransientTTL = 30 * time.Second
)

// Settings are what an administrator decides.
type Settings struct {
	Keep    time.Duration // how long a message waits; 0: 12 hours
	Foreign bool          // whether the gateway pushes to endpoints of other servers
}

// Options of New.
type Options struct {
	DB      *store.DB
	Secrets *sealed.Box // seals topics
	Log     *slog.Logger
	// Client makes requests to other push servers and to browsers' push services; it
	// refuses addresses that the server must not reach.
	Client *http.Client
	// Own reports whether a URL leads to this server. nil: none does.
	Own func(*url.URL) bool
	// Held reports whether a user is told nothing for now, as one whose account is
	// locked. nil: nobody is.
	Held     func(ctx context.Context, userID string) (bool, error)
	Settings func() Settings // nil: the defaults
	// Web sends to browsers; nil: they are refused.
	Web *webpush.Sender
	// HasDevice reports whether a user has a device.
	HasDevice func(q store.Querier, userID, deviceID string) (bool, error)
	// Claimed is called when a person's phone subscribed to a topic for the first time.
	// nil: nothing.
	Claimed    func(userID string)
	UnknownFor time.Duration // how long a topic without an owner is not refused; 0: an hour
}

// Service is the push server. Its methods are safe for concurrent use.
type Service struct {
	o       Options
	forward *http.Client
	slots   chan struct{} // requests to other servers under way
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	bytes   atomic.Int64 // of stored messages

	// The IDs given out last. They are not used again while the program runs, since
	// connections know phones, topics and how far they came by them.
	phones, topics, messages atomic.Int64

	published, delivered, refused atomic.Int64

	mu      sync.Mutex
	subs    map[*subscriber]struct{}
	byTopic map[int64]map[*subscriber]struct{}
	ofPhone map[int64]int
	ofUser  map[string]int
	rates   map[int64]*rate
	// How many messages a topic and a phone may get until their queues are looked at.
	topicLeft, phoneLeft map[int64]int
	unknown              map[string]time.Time // topic without an owner -> first push to it
	closed               bool
}

// rate is how much may be published to a topic.
type rate struct {
	left float64
	at   time.Time
}

// New makes the service; Start begins its upkeep.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Own == nil {
		o.Own = func(*url.URL) bool { return false }
	}
	if o.Held == nil {
		o.Held = func(context.Context, string) (bool, error) { return false, nil }
	}
	if o.Settings == nil {
		o.Settings = func() Settings { return Settings{} }
	}
	client := http.Client{}
	if o.Client != nil {
		client = *o.Client
	}
	client.Timeout = forwardTimeout
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s := &Service{o: o, forward: &client, slots: make(chan struct{}, maxForwards), subs: map[*subscriber]struct{}{}, byTopic: map[int64]map[*subscriber]struct{}{},
		ofPhone: map[int64]int{}, ofUser: map[string]int{}, rates: map[int64]*rate{}, topicLeft: map[int64]int{}, phoneLeft: map[int64]int{}, unknown: map[string]time.Time{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Start begins the upkeep. Close ends it.
func (s *Service) Start(ctx context.Context) error {
	if err := s.sealTopics(ctx); err != nil {
		return err
	}
	var n, phones, topics, messages int64
	err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		if n, err = storedBytes(q); err == nil {
			phones, topics, messages, err = lastIDs(q)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("unifiedpush: %w", err)
	}
	s.phones.Store(phones)
	s.topics.Store(topics)
	s.messages.Store(messages)
	s.bytes.Store(n)
	s.wg.Go(s.upkeep)
	return nil
}

// Close ends all subscriptions and the upkeep. It is called before the store closes.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
}

func (s *Service) upkeep() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		if err := s.sweep(s.ctx); err != nil && s.ctx.Err() == nil {
			s.o.Log.Warn("expired push messages could not be removed; trying again later", "err", err)
		}
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// sweep removes what has expired, in small writes, so that nobody waits for it.
func (s *Service) sweep(ctx context.Context) error {
	for {
		n := 0
		err := s.o.DB.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = s.dropMessages(tx, expiredMessages, nowMS(), sweepBatch)
			return err
		})
		if err != nil {
			return err
		}
		if n < sweepBatch {
			break
		}
	}
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := endUnused(tx, time.Now().Add(-unusedFor).UnixMilli(), nowMS()); err != nil {
			return err
		}
		if _, err := s.dropMessages(tx, orphans); err != nil {
			return err
		}
		return forgetEnded(tx, time.Now().Add(-keepEnded).UnixMilli())
	})
	s.mu.Lock()
	for topic, at := range s.unknown {
		if time.Since(at) > 2*unknownFor {
			delete(s.unknown, topic)
		}
	}
	for id, r := range s.rates {
		if time.Since(r.at).Seconds()*publishRate > publishBurst {
			delete(s.rates, id)
		}
	}
	clear(s.topicLeft)
	clear(s.phoneLeft)
	s.mu.Unlock()
	return err
}

// dropMessages deletes messages and keeps the sum of their sizes right.
func (s *Service) dropMessages(tx *store.Tx, query string, args ...any) (n int, err error) {
	n, size, err := deleteMessages(tx, query, args...)
	if size > 0 {
		tx.AfterCommit(func() { s.bytes.Add(-size) })
	}
	return n, err
}

func (s *Service) keep() time.Duration {
	if d := s.o.Settings().Keep; d > 0 {
		return d
	}
	return defaultKeep
}

func nowMS() int64 { return time.Now().UnixMilli() }

// Stats are figures of the service.
type Stats struct {
	Phones, Topics, Waiting      int   // stored
	Bytes                        int64 // of the messages
	Connections                  int
	Published, Delivered, Denied int64 // since the start
}

// Counts are the figures that cost nothing to ask for.
func (s *Service) Counts() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Bytes: s.bytes.Load(), Connections: len(s.subs), Published: s.published.Load(), Delivered: s.delivered.Load(), Denied: s.refused.Load()}
}

// Stats are all figures.
func (s *Service) Stats(q store.Querier) (Stats, error) {
	out := s.Counts()
	err := countAll(q, nowMS(), &out)
	return out, err
}

// DeviceDeleted ends the phones that were given to a device: for devices.OnDelete.
func (s *Service) DeviceDeleted(tx *store.Tx, userID, deviceID string) error {
	if deviceID == "" {
		return nil
	}
	return s.endPhones(tx, `user_id = $1 AND device_id = $2`, userID, deviceID)
}

// Deactivated ends the phones of an account that is closed.
func (s *Service) Deactivated(tx *store.Tx, userID string) error {
	return s.endPhones(tx, `user_id = $1`, userID)
}

// Disconnect ends the connections of a person whose account was locked.
func (s *Service) Disconnect(userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := range s.subs {
		if sub.phone.userID == userID {
			sub.cancel()
		}
	}
}

func (s *Service) endPhones(tx *store.Tx, where string, args ...any) error {
	ids, err := deletePhones(tx, where, args...)
	if err != nil || len(ids) == 0 {
		return err
	}
	for _, id := range ids {
		if err := endTopics(tx, id, nowMS()); err != nil {
			return err
		}
		if _, err := s.dropMessages(tx, messagesOfPhone, id); err != nil {
			return err
		}
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for sub := range s.subs {
			for _, id := range ids {
				if sub.phone.id == id {
					sub.cancel()
				}
			}
		}
	})
	return nil
}

// Routes are the operations of the Matrix push gateway.
func (s *Service) Routes() []route.Route {
	return []route.Route{
		{Op: "pushGatewayProbe", Pattern: "GET " + GatewayPath, Auth: route.None, Limit: route.Reads, Handle: route.Get(s.probe)},
		{Op: "pushGatewayNotify", Pattern: "POST " + GatewayPath, Auth: route.None, Limit: route.Messages, MaxBody: maxNotify, Handle: route.JSON(s.notify)},
		{Op: "webPushKey", Pattern: "GET /_matrix/client/unstable/holdfast/web_push", Auth: route.User, Limit: route.Reads, Handle: route.Get(s.webKey)},
	}
}

var errClosing = errors.New("the push server is stopping")

// errBusy is what a gateway's client is told when it has to come again.
func errBusy(wait time.Duration) error {
	return &mx.Error{Code: mx.LimitExceeded, Msg: "Too many notifications. Send them again in a moment.", RetryAfter: wait}
}
