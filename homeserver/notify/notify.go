// Package notify wakes those who wait for changes. It wakes, it never delivers:
// who wakes asks the database what changed.
//
// Invariants: a wake-up is published after the commit it speaks of, in commit
// order, under the writer; publishing never blocks; a waiter that saw position P
// before it began to wait is woken by every later change of its keys.
package notify

import (
	"context"
	"sync"
	"time"

	"holdfast/store"
)

// Kinds of store.Touch, and what their keys are.
const (
	Room     = "room"     // room ID: a new event
	Member   = "member"   // user ID: the user's own membership of some room changed
	User     = "user"     // user ID: account data, push rules, private receipts, filters: anything only for this user
	Device   = "device"   // "userID|deviceID": to-device messages, one-time-key counts
	DevList  = "devlist"  // user ID whose device list or cross-signing keys changed
	Typing   = "typing"   // room ID
	Receipt  = "receipt"  // room ID
	Presence = "presence" // user ID whose presence changed
)

// DeviceKey is the key of a Device touch.
func DeviceKey(userID, deviceID string) string { return userID + "|" + deviceID }

// Key is a kind and a key.
type Key struct{ Kind, Key string }

// Hub holds the subscriptions.
type Hub struct {
	mu   sync.Mutex
	subs map[Key]map[*Sub]struct{}
}

// New makes a Hub.
func New() *Hub { return &Hub{subs: map[Key]map[*Sub]struct{}{}} }

// Sub is interest in a set of keys. It may have any number of waiters.
type Sub struct {
	hub  *Hub
	keys map[Key]struct{} // guarded by hub.mu

	mu   sync.Mutex
	pos  int64 // position of the last change of one of the keys
	wake chan struct{}
}

// Subscribe makes a subscription to no keys yet. Close it when done.
func (h *Hub) Subscribe() *Sub {
	return &Sub{hub: h, keys: map[Key]struct{}{}, wake: make(chan struct{})}
}

// Set replaces the keys of the subscription. Changes of keys that are new to it
// count from now: look at what changed before after calling Set.
func (s *Sub) Set(keys []Key) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	want := make(map[Key]struct{}, len(keys))
	for _, k := range keys {
		want[k] = struct{}{}
		if _, ok := s.keys[k]; !ok {
			m := h.subs[k]
			if m == nil {
				m = map[*Sub]struct{}{}
				h.subs[k] = m
			}
			m[s] = struct{}{}
		}
	}
	for k := range s.keys {
		if _, ok := want[k]; !ok {
			h.drop(k, s)
		}
	}
	s.keys = want
}

// Close ends the subscription. Its waiters are woken.
func (s *Sub) Close() {
	s.Set(nil)
	s.publish(0)
}

func (h *Hub) drop(k Key, s *Sub) {
	delete(h.subs[k], s)
	if len(h.subs[k]) == 0 {
		delete(h.subs, k)
	}
}

// Publish wakes the subscriptions of a key for a change at pos.
func (h *Hub) Publish(k Key, pos int64) {
	h.mu.Lock()
	subs := h.subs[k]
	for s := range subs {
		s.publish(pos)
	}
	h.mu.Unlock()
}

// Touched is a listener for store.DB.OnCommit.
func (h *Hub) Touched(_ int64, touched []store.Touch) {
	for i, t := range touched {
		if i > 0 && touched[i-1].Kind == t.Kind && touched[i-1].Key == t.Key {
			continue
		}
		h.Publish(Key{t.Kind, t.Key}, t.Pos)
	}
}

func (s *Sub) publish(pos int64) {
	s.mu.Lock()
	s.pos = max(s.pos, pos)
	close(s.wake)
	s.wake = make(chan struct{})
	s.mu.Unlock()
}

// Pos is the position of the last change of one of the keys since they were set.
func (s *Sub) Pos() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos
}

// Wait returns when one of the keys changed after position seen (true), or when
// ctx ends or the time is over (false).
func (s *Sub) Wait(ctx context.Context, seen int64, timeout time.Duration) bool {
	s.mu.Lock()
	if s.pos > seen {
		s.mu.Unlock()
		return true
	}
	wake := s.wake
	s.mu.Unlock()
	if timeout <= 0 {
		return false
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	case <-t.C:
		return false
	}
}
