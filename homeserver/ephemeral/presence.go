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
	// offlineAfter is how long after its last sync began a device counts as gone:
	// longer than a long poll takes.
	offlineAfter = 90 * time.Second
	// idleAfter is how long after the last activity somebody who is online counts as
	// unavailable. Spec: cs#idle-timeout
	idleAfter = 5 * time.Minute
	// sweepEvery is how often it is looked for those who went.
	sweepEvery     = 15 * time.Second
	maxStatusBytes = 1024
	// activeFor is how long after the last activity a user is "currently active".
	activeFor = time.Minute
)

// presence is what is known of a user: of all their devices together.
type presence struct {
	state   string // as others see it
	status  string // status_msg
	name    string // of the profile, once that changed
	avatar  string // likewise
	devices map[string]devicePresence
	active  time.Time // last activity
	saved   time.Time // last activity as it is stored
	kept    bool      // of an earlier run of the server, nothing happened since
	pos     int64     // of the last change that others see
}

// devicePresence is what a device said last.
type devicePresence struct {
	state  string
	synced time.Time
}

// combined is the state of a user: online if any device is, and unavailable if none
// did anything for long. Devices that are gone are forgotten.
func (p *presence) combined(now time.Time) string {
	state := offline
	for id, d := range p.devices {
		switch {
		case now.Sub(d.synced) >= offlineAfter || d.state == offline:
			delete(p.devices, id)
		case d.state == online:
			state = online
		case state == offline:
			state = unavailable
		}
	}
	if state == online && now.Sub(p.active) >= idleAfter {
		state = unavailable
	}
	return state
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
	return out, s.setPresence(ctx, r.UserID, r.DeviceID, in.Presence, &status)
}

func validState(state string) bool {
	return state == online || state == unavailable || state == offline
}

// Synced notes that a user's device asked for a sync, with set_presence ("" means
// online; "offline" leaves the presence as it is). It is cheap unless the presence
// changes. Errors: InvalidParam.
func (s *Service) Synced(ctx context.Context, userID, deviceID, setPresence string) error {
	if setPresence == "" {
		setPresence = online
	}
	if !validState(setPresence) {
		return mx.Errorf(mx.InvalidParam, "The parameter set_presence is online, unavailable or offline.")
	}
	if setPresence == offline {
		return nil
	}
	return s.setPresence(ctx, userID, deviceID, setPresence, nil)
}

// of needs s.mu.
func (s *Service) of(userID string) *presence {
	p := s.presence[userID]
	if p == nil {
		p = &presence{state: offline, devices: map[string]devicePresence{}}
		s.presence[userID] = p
	}
	return p
}

// setPresence notes what a device says of its user's presence; status nil, of a
// sync, leaves the message, and is no activity but where the device comes back.
func (s *Service) setPresence(ctx context.Context, userID, deviceID, state string, status *string) error {
	now := s.o.Now()
	s.mu.Lock()
	p := s.of(userID)
	d, known := p.devices[deviceID]
	if state == online && (status != nil || !known || d.state != online) {
		p.active, p.kept = now, false
	}
	if known || state != offline {
		p.devices[deviceID] = devicePresence{state, now}
	}
	delete(p.devices, keptDevice)
	combined := p.combined(now)
	changed := p.state != combined || status != nil && p.status != *status
	p.state = combined
	if status != nil {
		p.status = *status
	}
	s.scheduleSweep()
	s.mu.Unlock()
	if !changed {
		return nil
	}
	return s.announcePresence(ctx, userID)
}

// Active notes that a user did something, as sending an event: that brings back who
// was idle. It writes nothing itself and does not wait.
func (s *Service) Active(userID string) {
	s.mu.Lock()
	p := s.presence[userID]
	if p == nil || len(p.devices) == 0 {
		s.mu.Unlock()
		return
	}
	now := s.o.Now()
	p.active, p.kept = now, false
	back := false
	if p.state == unavailable {
		p.state = p.combined(now)
		back = p.state == online
	}
	closed := s.closed
	s.mu.Unlock()
	if back && !closed {
		go func() {
			_ = s.announcePresence(context.Background(), userID) // the store closes: nobody is left to tell
		}()
	}
}

// keptDevice stands for the devices of an earlier run of the server, until one comes.
const keptDevice = "\x00"

// loadPresence takes over what was stored: those who were there count as there until
// their devices had time to come back.
func (s *Service) loadPresence(q store.Querier) error {
	now := s.o.Now()
	rows, err := listPresence(q)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rows {
		p := s.of(r.userID)
		p.state, p.status, p.pos, p.kept = r.state, r.status, r.pos, true
		if r.active > 0 {
			p.active = time.UnixMilli(r.active)
			p.saved = p.active
		}
		if p.state != offline {
			p.devices[keptDevice] = devicePresence{p.state, now}
			s.scheduleSweep()
		}
	}
	return nil
}

// row needs s.mu.
func (p *presence) row(userID string) presenceRow {
	r := presenceRow{userID: userID, state: p.state, status: p.status, pos: p.pos}
	if !p.active.IsZero() {
		r.active = p.active.UnixMilli()
	}
	return r
}

// savePresence stores the last activity of those for whom it is later than what is
// stored by more than a time.
func (s *Service) savePresence(ctx context.Context, more time.Duration) error {
	s.mu.Lock()
	var rows []presenceRow
	for u, p := range s.presence {
		if p.active.Sub(p.saved) > more {
			p.saved = p.active
			rows = append(rows, p.row(u))
		}
	}
	s.mu.Unlock()
	if len(rows) == 0 {
		return nil
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, r := range rows {
			if err := upsertPresence(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// ProfileChanged tells those who see a user's presence of a new name or avatar.
// Spec: cs#events-on-change-of-profile-information
func (s *Service) ProfileChanged(ctx context.Context, userID, displayName, avatarURL string) error {
	s.mu.Lock()
	p := s.of(userID)
	p.name, p.avatar = displayName, avatarURL
	s.mu.Unlock()
	return s.announcePresence(ctx, userID)
}

// announcePresence stores the presence of users as it is now, and tells of it.
func (s *Service) announcePresence(ctx context.Context, users ...string) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, u := range users {
			pos := tx.NextPos()
			s.mu.Lock()
			p := s.presence[u]
			if p == nil { // the account was closed meanwhile
				s.mu.Unlock()
				continue
			}
			row := p.row(u)
			s.mu.Unlock()
			row.pos = pos
			if err := upsertPresence(tx, row); err != nil {
				return err
			}
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

// sweepPresence makes those offline whose devices do not sync any more, and those
// unavailable who did nothing for long.
func (s *Service) sweepPresence() {
	var changed []string
	s.mu.Lock()
	s.sweep = nil
	now := s.o.Now()
	more := false
	for u, p := range s.presence {
		if len(p.devices) == 0 && p.state == offline {
			continue
		}
		if state := p.combined(now); state != p.state {
			p.state = state
			changed = append(changed, u)
		}
		more = more || len(p.devices) > 0
	}
	if more {
		s.scheduleSweep()
	}
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return
	}
	// Where the store closes, nobody is left to tell.
	if len(changed) > 0 {
		_ = s.announcePresence(context.Background(), changed...)
	}
	_ = s.savePresence(context.Background(), idleAfter)
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
		active := !p.kept && now.Sub(p.active) < activeFor
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
	return s.presenceOf(func(p *presence) bool {
		return p.pos > from && p.pos <= to && (from > 0 || p.state != offline)
	}, visible)
}

// PresenceBefore gives the m.presence events of those who are not offline and whose
// presence did not change after a position, and whom visible accepts.
func (s *Service) PresenceBefore(from int64, visible func(userID string) bool) []mx.Raw {
	return s.presenceOf(func(p *presence) bool { return p.pos > 0 && p.pos <= from && p.state != offline }, visible)
}

func (s *Service) presenceOf(pick func(p *presence) bool, visible func(userID string) bool) []mx.Raw {
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
		if pick(p) {
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
