package unifiedpush

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/store"
)

// ServeHTTP answers what Serves names.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodOptions {
		r.Pattern = "OPTIONS /{topic}"
		h.Set("Access-Control-Allow-Methods", "GET, PUT, POST, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Content-Encoding, TTL, Topic, Urgency, Encryption, Crypto-Key")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	first, rest, more := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	var err error
	switch {
	case first == "v1":
		r.Pattern = "/v1/"
		if err = errNoPage; rest == "health" && r.Method == http.MethodGet {
			writeJSON(w, http.StatusOK, map[string]bool{"healthy": true})
			err = nil
		}
	case !more && (r.Method == http.MethodPost || r.Method == http.MethodPut):
		r.Pattern = "POST /{topic}"
		err = s.publishHTTP(w, r, first)
	case r.Method != http.MethodGet:
		r.Pattern = "/{topic}"
		h.Set("Allow", "GET, POST, PUT, OPTIONS")
		err = errMethod
	case !more:
		// How an app checks that an address is an endpoint.
		r.Pattern = "GET /{topic}"
		if err = errTopic; validTopic(first) {
			writeJSON(w, http.StatusOK, map[string]any{"unifiedpush": map[string]int{"version": 1}})
			err = nil
		}
	case rest == "auth":
		r.Pattern = "GET /{topic}/auth"
		err = s.checkAuth(w, r, first)
	default:
		r.Pattern = "GET /{topic}/" + rest // one of streams
		err = s.subscribe(w, r, first, rest)
	}
	if err != nil {
		s.fail(w, r, err)
	}
}

// fail answers with an error.
func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	if !errors.As(err, &p) {
		if r.Context().Err() == nil && !errors.Is(err, errClosing) {
			s.o.Log.Error("a request of a push app failed", "route", r.Pattern, "err", err)
		}
		w.Header().Set("Retry-After", "5")
		p = &problem{Code: 50001, HTTP: http.StatusServiceUnavailable, Msg: "The server has trouble at the moment. Try again."}
	}
	if p.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.after.Seconds()))))
	}
	if p.HTTP == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="push", charset="UTF-8"`)
	}
	s.refused.Add(1)
	writeJSON(w, p.HTTP, p)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// publishHTTP takes a message from an application's server. The body is taken as it
// is, for it is encrypted or the application's own, and nobody's to look into.
func (s *Service) publishHTTP(w http.ResponseWriter, r *http.Request, name string) error {
	if !validTopic(name) {
		return errTopic
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return errTooLarge
	}
	if err != nil {
		return errBody
	}
	ttl := time.Duration(-1)
	if n, err := strconv.ParseUint(r.Header.Get("TTL"), 10, 31); err == nil {
		ttl = time.Duration(n) * time.Second
	}
	m, err := s.publish(r.Context(), name, body, ttl, true)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, event(m, name))
	return nil
}

// publish stores a message and wakes who subscribed. ttl is how long the sender
// wants it kept, below 0: as long as the server keeps it. From outside there is a
// limit on the rate. Errors: *problem; others are trouble of ours.
func (s *Service) publish(ctx context.Context, name string, body []byte, ttl time.Duration, outside bool) (m message, err error) {
	if len(body) > maxMessage {
		return m, errTooLarge
	}
	var t topic
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		t, err = s.topicByName(q, name)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return m, s.nobody(name)
	}
	if err != nil {
		return m, err
	}
	if t.phoneID == 0 {
		return m, errGone
	}
	if outside {
		if err := s.limit(t.id); err != nil {
			return m, err
		}
	}
	now := time.Now()
	expires := now.Add(s.keep())
	if ttl >= 0 {
		// Also what is not to be kept has to live until its phone was woken.
		if e := now.Add(max(ttl, minTransientTTL)); e.Before(expires) {
			expires = e
		}
	}
	m = message{msgID: rand.Text()[:messageID], topicID: t.id, ts: now.UnixMilli(), expires: expires.UnixMilli(), body: body}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) (err error) {
		t, err := s.topicByName(tx, name)
		if errors.Is(err, store.ErrNotFound) || err == nil && t.phoneID == 0 {
			return errGone
		}
		if err != nil {
			return err
		}
		m.id = s.messages.Add(1)
		if err = insertMessage(tx, m, t.phoneID); err != nil {
			return err
		}
		topicFull, phoneFull := s.due(t)
		if topicFull {
			if _, err := s.dropMessages(tx, beyondTopic, t.id, maxTopicQueue-pruneEvery); err != nil {
				return err
			}
		}
		if phoneFull {
			if _, err := s.dropMessages(tx, beyondPhone, t.phoneID, maxPhoneQueue-pruneEvery); err != nil {
				return err
			}
		}
		if s.bytes.Load()+int64(len(body)) > s.maxBytes() {
			if _, err := s.dropMessages(tx, oldestMessages, sweepBatch); err != nil {
				return err
			}
		}
		tx.AfterCommit(func() {
			s.bytes.Add(int64(len(body)))
			s.published.Add(1)
			s.wake(t.id)
		})
		return nil
	})
	return m, err
}

// due reports whether the queues of a topic and of its phone are to be looked at.
// That costs more than a message, so it is done for every so many, and makes room
// for as many.
func (s *Service) due(t topic) (ofTopic, ofPhone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := func(m map[int64]int, id int64) bool {
		left, seen := m[id]
		if !seen || left == 0 { // after a start nobody knows
			m[id] = pruneEvery - 1
			return true
		}
		m[id] = left - 1
		return false
	}
	return count(s.topicLeft, t.id), count(s.phoneLeft, t.phoneID)
}

func (s *Service) maxBytes() int64 { return maxQueued }

// wake has those read who subscribed to a topic.
func (s *Service) wake(topicID int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := range s.byTopic[topicID] {
		select {
		case sub.wake <- struct{}{}:
		default:
		}
	}
}

// nobody is the answer to a push to a topic that no phone has. A distributor gives
// an application its endpoint before it subscribes, so at first this is no refusal:
// it would end the pusher. Errors: errNobody, errGone.
func (s *Service) nobody(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, asked := s.unknown[name]
	switch {
	case asked && time.Since(at) >= s.unknownFor():
		return errGone
	case !asked && len(s.unknown) < maxUnknown:
		s.unknown[name] = time.Now()
	}
	return errNobody
}

func (s *Service) unknownFor() time.Duration {
	if s.o.UnknownFor > 0 {
		return s.o.UnknownFor
	}
	return unknownFor
}

// limit takes one of what may be published to a topic.
func (s *Service) limit(topicID int64) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.rates[topicID]
	if b == nil {
		b = &rate{publishBurst, now}
		s.rates[topicID] = b
	}
	b.left = min(publishBurst, b.left+now.Sub(b.at).Seconds()*publishRate)
	b.at = now
	if b.left < 1 {
		return &problem{42901, http.StatusTooManyRequests, "Too many messages for this topic. Send them later.", time.Duration((1 - b.left) / publishRate * float64(time.Second))}
	}
	b.left--
	return nil
}

// eventJSON is what a subscriber gets, in the form of ntfy.
type eventJSON struct {
	ID       string  `json:"id"`
	Time     int64   `json:"time"`
	Expires  int64   `json:"expires,omitempty"`
	Event    string  `json:"event"`
	Topic    string  `json:"topic"`
	Message  *string `json:"message,omitempty"`
	Encoding string  `json:"encoding,omitempty"` // "base64" where the message is no text
}

func event(m message, name string) eventJSON {
	text, enc := string(m.body), ""
	if !utf8.Valid(m.body) {
		text, enc = base64.StdEncoding.EncodeToString(m.body), "base64"
	}
	return eventJSON{m.msgID, m.ts / 1000, m.expires / 1000, "message", name, &text, enc}
}

// sign is an event without a message.
func sign(kind, topics string) eventJSON {
	return eventJSON{ID: rand.Text()[:messageID], Time: time.Now().Unix(), Event: kind, Topic: topics}
}
