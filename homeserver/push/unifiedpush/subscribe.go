package unifiedpush

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"holdfast/store"
)

// subscriber is a connection of a phone.
type subscriber struct {
	phone  phone
	topics []int64
	wake   chan struct{}
	cancel context.CancelFunc
	since  time.Time
}

// out is how events are written to a subscriber.
type out interface {
	event(e eventJSON) error
	flush() error
	// keepalive tells the client, and whatever lies between, that it is still there.
	keepalive(e eventJSON) error
}

// subscribe answers a subscription, until the client goes or with poll when all
// that is there was given.
func (s *Service) subscribe(w http.ResponseWriter, r *http.Request, list, kind string) error {
	names, err := parseTopics(list)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	poll := isTrue(param(r, q, "poll", "po"))
	from, err := parseSince(param(r, q, "since", "si"), poll, time.Now())
	if err != nil {
		return err
	}
	if kind == "ws" && !websocket.IsWebSocketUpgrade(r) {
		return errNotWebSocket
	}
	p, err := s.authenticate(r)
	if err != nil {
		return err
	}
	// Read before the topics get their phone: what comes from then on is for it.
	if err := s.o.DB.Read(r.Context(), func(q store.Querier) (err error) {
		from.last, err = lastMessage(q)
		return err
	}); err != nil {
		return err
	}
	ids, err := s.claim(r.Context(), p, names)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	sub := &subscriber{phone: p, topics: slices.Sorted(maps.Keys(ids)), wake: make(chan struct{}, 1), cancel: cancel, since: time.Now()}
	if err := s.join(sub); err != nil {
		return err
	}
	defer s.leave(sub)
	// The phone may have ended between its claim and its joining, when nobody could
	// cancel it yet.
	if _, err := s.authenticate(r); err != nil {
		return err
	}
	var o out
	switch kind {
	case "ws":
		o, err = newSocket(w, r, cancel)
	default:
		o = newStream(w, kind)
	}
	if err != nil {
		return nil // the upgrader answered
	}
	if c, ok := o.(*socket); ok {
		defer c.conn.Close()
	}
	defer context.AfterFunc(s.ctx, cancel)()
	// What goes wrong from here on ends the connection: the answer has begun.
	if err := s.stream(ctx, o, sub, ids, strings.Join(names, ","), from, poll); err != nil && ctx.Err() == nil {
		s.o.Log.Debug("a push subscription ended", "user", p.userID, "err", err)
	}
	switch x := o.(type) {
	case *socket:
		x.close()
	case *stream:
		x.c.SetWriteDeadline(time.Time{}) // the connection may serve other requests
	}
	return nil
}

// join counts a connection in. A phone that comes again has lost its older
// connections, so the oldest makes room. Errors: errConnections.
func (s *Service) join(sub *subscriber) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosing
	}
	switch {
	case s.ofPhone[sub.phone.id] >= maxOfPhone:
		s.endOldest(func(x *subscriber) bool { return x.phone.id == sub.phone.id })
	case s.ofUser[sub.phone.userID] >= maxOfUser:
		s.endOldest(func(x *subscriber) bool { return x.phone.userID == sub.phone.userID })
	case len(s.subs) >= maxConnections:
		return errConnections
	}
	s.subs[sub] = struct{}{}
	s.ofPhone[sub.phone.id]++
	s.ofUser[sub.phone.userID]++
	for _, id := range sub.topics {
		if s.byTopic[id] == nil {
			s.byTopic[id] = map[*subscriber]struct{}{}
		}
		s.byTopic[id][sub] = struct{}{}
	}
	s.wg.Add(1)
	return nil
}

// endOldest ends the oldest of some connections. s.mu is held.
func (s *Service) endOldest(of func(*subscriber) bool) {
	var oldest *subscriber
	for x := range s.subs {
		if of(x) && (oldest == nil || x.since.Before(oldest.since)) {
			oldest = x
		}
	}
	if oldest != nil {
		oldest.cancel()
		s.remove(oldest)
	}
}

func (s *Service) leave(sub *subscriber) {
	s.mu.Lock()
	s.remove(sub)
	s.mu.Unlock()
	s.wg.Done()
}

// remove takes a connection out of the count, once. s.mu is held.
func (s *Service) remove(sub *subscriber) {
	if _, in := s.subs[sub]; !in {
		return
	}
	delete(s.subs, sub)
	less(s.ofPhone, sub.phone.id)
	less(s.ofUser, sub.phone.userID)
	for _, id := range sub.topics {
		if delete(s.byTopic[id], sub); len(s.byTopic[id]) == 0 {
			delete(s.byTopic, id)
		}
	}
}

func less[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}

// stream writes what is there and, without poll, what comes.
func (s *Service) stream(ctx context.Context, o out, sub *subscriber, names map[int64]string, list string, from since, poll bool) error {
	var cursor int64
	var first []message
	err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		switch {
		case from.none:
			cursor = from.last
		case from.latest:
			if first, err = latest(q, nowMS(), sub.topics); err == nil {
				cursor, err = lastMessage(q)
			}
		case from.id != "":
			cursor, err = messageNumber(q, from.id, sub.topics)
		}
		return err
	})
	if err != nil {
		return err
	}
	if !poll {
		if err := o.event(sign("open", list)); err != nil {
			return err
		}
	}
	slices.SortFunc(first, func(a, b message) int { return int(a.id - b.id) })
	for _, m := range first {
		if err := o.event(event(m, names[m.topicID])); err != nil {
			return err
		}
		s.delivered.Add(1)
	}
	alive := time.NewTicker(keepaliveEvery)
	defer alive.Stop()
	for {
		for {
			var batch []message
			err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
				batch, err = messagesAfter(q, cursor, from.time, nowMS(), sub.topics)
				return err
			})
			if err != nil {
				return err
			}
			for _, m := range batch {
				if err := o.event(event(m, names[m.topicID])); err != nil {
					return err
				}
				cursor = m.id
				s.delivered.Add(1)
			}
			if len(batch) < batchToRead {
				break
			}
		}
		if err := o.flush(); err != nil || poll {
			return err
		}
		select {
		case <-sub.wake:
		case <-alive.C:
			if err := o.keepalive(sign("keepalive", list)); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stream is an answer that goes on.
type stream struct {
	w    http.ResponseWriter
	c    *http.ResponseController
	kind string
}

func newStream(w http.ResponseWriter, kind string) *stream {
	h := w.Header()
	switch kind {
	case "json":
		h.Set("Content-Type", "application/x-ndjson; charset=utf-8")
	case "sse":
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
	default:
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	h.Set("X-Accel-Buffering", "no") // proxies are not to wait for more
	w.WriteHeader(http.StatusOK)
	return &stream{w, http.NewResponseController(w), kind}
}

func (s *stream) event(e eventJSON) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	switch {
	case s.kind == "raw" && e.Message == nil:
		b = nil
	case s.kind == "raw":
		b = []byte(strings.NewReplacer("\n", " ", "\r", " ").Replace(*e.Message))
	case s.kind == "sse" && e.Event != "message":
		b = append([]byte("event: "+e.Event+"\ndata: "), b...)
	case s.kind == "sse":
		b = append([]byte("data: "), b...)
	}
	b = append(b, '\n')
	if s.kind == "sse" {
		b = append(b, '\n')
	}
	s.c.SetWriteDeadline(time.Now().Add(writeTime))
	_, err = s.w.Write(b)
	return err
}

func (s *stream) flush() error { return s.c.Flush() }

func (s *stream) keepalive(e eventJSON) error {
	if err := s.event(e); err != nil {
		return err
	}
	return s.flush()
}

// socket is a WebSocket.
type socket struct{ conn *websocket.Conn }

// The secret comes with each request and never as a cookie, so another site's page
// cannot use it.
var upgrader = websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 2048, WriteBufferPool: nil, CheckOrigin: func(*http.Request) bool { return true }}

func newSocket(w http.ResponseWriter, r *http.Request, cancel context.CancelFunc) (*socket, error) {
	conn, err := upgrader.Upgrade(w, r, http.Header{"Access-Control-Allow-Origin": {"*"}})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(4096) // clients have nothing to say
	alive := func() { conn.SetReadDeadline(time.Now().Add(keepaliveEvery + writeTime)) }
	alive()
	conn.SetPongHandler(func(string) error { alive(); return nil })
	ping := conn.PingHandler()
	conn.SetPingHandler(func(data string) error { alive(); return ping(data) })
	go func() { // it ends with the connection
		defer cancel()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
			alive()
		}
	}()
	return &socket{conn}, nil
}

func (s *socket) event(e eventJSON) error {
	s.conn.SetWriteDeadline(time.Now().Add(writeTime))
	return s.conn.WriteJSON(e)
}

func (s *socket) flush() error { return nil }

func (s *socket) keepalive(eventJSON) error {
	return s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTime))
}

func (s *socket) close() {
	s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), time.Now().Add(time.Second))
}
