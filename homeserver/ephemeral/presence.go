package ephemeral

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// States of presence. Spec: cs#presence
const (
	online      = "online"
	unavailable = "unavailable"
	offline     = "offline"
)

const (
	// offlineAfter is how long after the last sync began a user counts as offline:
	// longer than a long poll takes.
	offlineAfter = 90 * time.Second
	// sweepEvery is how often it is looked for those who went.
	sweepEvery     = 15 * time.Second
	maxStatusBytes = 1024
	// activeFor is how long after the last activity a user is "currently active".
	activeFor = time.Minute
)

type presence struct {
	state  string
	status string    // status_msg
	name   string    // of the profile, once that changed
	avatar string    // likewise
	active time.Time // last activity
	synced time.Time // when a sync last began
	pos    int64     // of the last change that others see
}

type presenceRequest struct {
	Presence string  `json:"presence"`
	Status   *string `json:"status_msg"`
}

// Spec: cs#put_matrixclientv3presenceuseridstatus
func (s *Service) putPresence(ctx context.Context, r *route.Request, in presenceRequest) (out route.Empty, err error) {
	if r.Param("userID") != r.UserID {
		return out, mx.Errorf(mx.Forbidden, "You cannot set the presence of somebody else.")
	}
	if !validState(in.Presence) {
		return out, mx.Errorf(mx.InvalidParam, "The presence is online, unavailable or offline.")
	}
	status := ""
	if in.Status != nil {
		status = *in.Status
	}
	if len(status) > maxStatusBytes {
		return out, mx.Errorf(mx.InvalidParam, "A status message has at most %d bytes.", maxStatusBytes)
	}
	return out, s.setPresence(ctx, r.UserID, in.Presence, &status)
}

func validState(state string) bool {
	return state == online || state == unavailable || state == offline
}

// Synced notes that a user's device asked for a sync, with set_presence ("" means
// online; "offline" leaves the presence as it is). It is cheap unless the presence
// changes. Errors: InvalidParam.
func (s *Service) Synced(ctx context.Context, userID, setPresence string) error {
	if setPresence == "" {
		setPresence = online
	}
	if !validState(setPresence) {
		return mx.Errorf(mx.InvalidParam, "The parameter set_presence is online, unavailable or offline.")
	}
	if setPresence == offline {
		return nil
	}
	return s.setPresence(ctx, userID, setPresence, nil)
}

// setPresence changes a user's presence; status nil leaves the message.
func (s *Service) setPresence(ctx context.Context, userID, state string, status *string) error {
	now := s.o.Now()
	s.mu.Lock()
	p := s.presence[userID]
	if p == nil {
		p = &presence{state: offline}
		s.presence[userID] = p
	}
	changed := p.state != state || status != nil && p.status != *status
	p.state, p.synced = state, now
	if status != nil {
		p.status = *status
	}
	if state == online {
		p.active = now
	}
	s.scheduleSweep()
	s.mu.Unlock()
	if !changed {
		return nil
	}
	return s.announcePresence(ctx, userID)
}

// ProfileChanged tells those who see a user's presence of a new name or avatar.
// Spec: cs#events-on-change-of-profile-information
func (s *Service) ProfileChanged(ctx context.Context, userID, displayName, avatarURL string) error {
	s.mu.Lock()
	p := s.presence[userID]
	if p == nil {
		p = &presence{state: offline}
		s.presence[userID] = p
	}
	p.name, p.avatar = displayName, avatarURL
	s.mu.Unlock()
	return s.announcePresence(ctx, userID)
}

func (s *Service) announcePresence(ctx context.Context, users ...string) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, u := range users {
			pos := tx.NextPos()
			tx.AfterCommit(func() {
				s.mu.Lock()
				if p := s.presence[u]; p != nil {
					p.pos = pos
				}
				s.mu.Unlock()
			})
			tx.Touch(notify.Presence, u)
		}
		return nil
	})
}

// scheduleSweep needs s.mu.
func (s *Service) scheduleSweep() {
	if s.sweep == nil && !s.closed {
		s.sweep = time.AfterFunc(sweepEvery, s.sweepPresence)
	}
}

// sweepPresence makes those offline whose devices do not sync any more.
func (s *Service) sweepPresence() {
	var gone []string
	s.mu.Lock()
	s.sweep = nil
	left := s.o.Now().Add(-offlineAfter)
	more := false
	for u, p := range s.presence {
		if p.state == offline {
			continue
		}
		if p.synced.Before(left) {
			p.state = offline
			gone = append(gone, u)
		} else {
			more = true
		}
	}
	if more {
		s.scheduleSweep()
	}
	closed := s.closed
	s.mu.Unlock()
	if len(gone) > 0 && !closed {
		_ = s.announcePresence(context.Background(), gone...) // the store closes: nobody is left to tell
	}
}

type presenceContent struct {
	Presence        string `json:"presence"`
	LastActiveAgo   *int64 `json:"last_active_ago,omitempty"` // ms
	StatusMsg       string `json:"status_msg,omitempty"`
	CurrentlyActive *bool  `json:"currently_active,omitempty"`
	DisplayName     string `json:"displayname,omitempty"`
	AvatarURL       string `json:"avatar_url,omitempty"`
}

// content needs s.mu.
func (p *presence) content(now time.Time) presenceContent {
	c := presenceContent{Presence: p.state, StatusMsg: p.status, DisplayName: p.name, AvatarURL: p.avatar}
	if !p.active.IsZero() {
		ago := max(now.Sub(p.active).Milliseconds(), 0)
		c.LastActiveAgo = &ago
	}
	if p.state == online {
		active := now.Sub(p.active) < activeFor
		c.CurrentlyActive = &active
	}
	return c
}

// Spec: cs#get_matrixclientv3presenceuseridstatus
func (s *Service) getPresence(ctx context.Context, r *route.Request) (out presenceContent, err error) {
	userID := r.Param("userID")
	if userID != r.UserID {
		var shared []string
		err := s.o.DB.Read(ctx, func(q store.Querier) error {
			shared, err = s.o.SharedUsers(q, r.UserID)
			return err
		})
		if err != nil {
			return out, err
		}
		found := false
		for _, u := range shared {
			found = found || u == userID
		}
		if !found {
			return out, mx.Errorf(mx.Forbidden, "You share no room with this user.")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.presence[userID]
	if p == nil {
		return presenceContent{Presence: offline}, nil
	}
	return p.content(s.o.Now()), nil
}

// Presence gives the m.presence events that changed in (from, to] of those users
// whom visible accepts; it is asked only about users with a change. With from 0
// those who are offline are left out.
func (s *Service) Presence(from, to int64, visible func(userID string) bool) []mx.Raw {
	type change struct {
		Type    string          `json:"type"`
		Sender  string          `json:"sender"`
		Content presenceContent `json:"content"`
		pos     int64
	}
	var list []change
	s.mu.Lock()
	now := s.o.Now()
	for u, p := range s.presence {
		if p.pos > from && p.pos <= to && (from > 0 || p.state != offline) {
			list = append(list, change{mx.Presence, u, p.content(now), p.pos})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b change) int { return cmp.Compare(a.pos, b.pos) })
	var out []mx.Raw
	for _, c := range list {
		if visible(c.Sender) {
			b, err := json.Marshal(c)
			if err == nil {
				out = append(out, b)
			}
		}
	}
	return out
}
