package rooms

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"

	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// Create describes a room to be made. Spec: cs#post_matrixclientv3createroom
type Create struct {
	Visibility   string                     `json:"visibility"`
	Alias        string                     `json:"room_alias_name"`
	Name         string                     `json:"name"`
	Topic        string                     `json:"topic"`
	Invite       []string                   `json:"invite"`
	Invite3PID   []json.RawMessage          `json:"invite_3pid"`
	Version      string                     `json:"room_version"`
	Content      map[string]json.RawMessage `json:"creation_content"`
	InitialState []InitialState             `json:"initial_state"`
	Preset       string                     `json:"preset"`
	IsDirect     bool                       `json:"is_direct"`
	PowerLevels  map[string]json.RawMessage `json:"power_level_content_override"`

	Join []string `json:"-"` // who is invited and joins at once: not for clients
	// With is part of the write that makes the room. nil: nothing.
	With func(tx *store.Tx, roomID string) error `json:"-"`
}

// InitialState is a state event to begin with.
type InitialState struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// Limits of one request.
const (
	maxInvites      = 500
	maxInitialState = 500
)

type preset struct{ joinRule, history, guests string }

var presets = map[string]preset{
	"private_chat":         {mx.JoinInvite, mx.VisibilityShared, "can_join"},
	"trusted_private_chat": {mx.JoinInvite, mx.VisibilityShared, "can_join"},
	"public_chat":          {mx.JoinPublic, mx.VisibilityShared, "forbidden"},
}

// Create makes a room with its first events in one write, and returns its ID.
// Errors: UnsupportedRoom, InvalidParam, RoomInUse, Forbidden.
func (r *Rooms) Create(ctx context.Context, creator string, c Create) (roomID string, err error) {
	v := pdu.Version(c.Version)
	if c.Version == "" {
		v = r.DefaultVersion()
	}
	if !pdu.Creatable(v) {
		return "", mx.Errorf(mx.UnsupportedRoom, "Rooms of version %.20q cannot be created here. Leave room_version out for version %s.", c.Version, string(r.DefaultVersion()))
	}
	c.Preset = c.preset()
	set, ok := presets[c.Preset]
	if !ok {
		return "", mx.Errorf(mx.InvalidParam, "There is no preset %.40q.", c.Preset)
	}
	if c.Visibility != "" && c.Visibility != "public" && c.Visibility != "private" {
		return "", mx.Errorf(mx.InvalidParam, "The visibility is public or private.")
	}
	if len(c.Invite) > maxInvites || len(c.InitialState) > maxInitialState {
		return "", mx.Errorf(mx.InvalidParam, "At most %d invitations and %d state events can go with a new room.", maxInvites, maxInitialState)
	}
	if len(c.Invite3PID) > 0 {
		return "", mx.Errorf(mx.ThreepidNotFound, "This server cannot invite by e-mail address or telephone number.")
	}
	for _, u := range c.Invite {
		if !mx.ValidUserID(u) {
			return "", mx.Errorf(mx.InvalidParam, "%.60q is not a user ID.", u)
		}
	}
	err = r.db.Read(ctx, func(q store.Querier) error {
		for _, u := range c.Invite {
			if err := r.takesInvites(q, creator, u); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	alias := ""
	if c.Alias != "" {
		alias = mx.RoomAlias(c.Alias, r.o.ServerName)
		if _, _, err := mx.ParseAlias(alias); err != nil {
			return "", err
		}
	}
	protos, err := r.firstEvents(ctx, v, creator, alias, c, set)
	if err != nil {
		return "", err
	}
	if protos, err = r.plusJoins(ctx, protos, c.Join); err != nil {
		return "", err
	}
	h := &hotRoom{version: v, state: map[StateKey]*entry{}, loaded: true}
	if v.RoomIDIsHash() {
		protos[0].Timestamp = r.createdAt()
	} else {
		h.id = "!" + randomID() + ":" + r.o.ServerName
	}
	h.mu.Lock()
	err = r.run(ctx, h, false, func(b *batch) error {
		b.also = append(b.also, func(tx *store.Tx, _ int64) (err error) {
			h.w.nid, err = insertRoom(tx, h.id, v, c.Visibility == "public", r.o.Now().UnixMilli())
			return err
		})
		if c.With != nil {
			b.also = append(b.also, func(tx *store.Tx, _ int64) error { return c.With(tx, h.id) })
		}
		if alias != "" {
			b.also = append(b.also, func(tx *store.Tx, nid int64) error { return insertAlias(tx, alias, nid, creator) })
		}
		for _, n := range protos {
			if _, err := b.add(n); err != nil {
				var not *eventauth.Error
				if errors.As(err, &not) {
					return &mx.Error{Code: mx.InvalidRoomState, Msg: "The room cannot begin like this (" + n.Type + "): " + not.Msg, Err: err}
				}
				return err
			}
		}
		return nil
	})
	if err != nil {
		h.forget(&r.hot)
		return "", err
	}
	r.hot.mu.Lock()
	if r.hot.rooms[h.id] == nil {
		r.hot.rooms[h.id] = h
	} else {
		h.forget(&r.hot)
	}
	r.hot.mu.Unlock()
	return h.id, nil
}

// createdAt is the time of a new room's first event, in milliseconds: that of no other
// room. The hash of the event is the room's ID, and of rooms that somebody makes without
// a name in the same millisecond nothing else differs. Spec: MSC4291
func (r *Rooms) createdAt() int64 {
	for {
		last, now := r.created.Load(), r.o.Now().UnixMilli()
		if last >= now && last < now+1000 { // else the clock was set back
			now = last + 1
		}
		if r.created.CompareAndSwap(last, now) {
			return now
		}
	}
}

func (c Create) preset() string {
	switch {
	case c.Preset != "":
		return c.Preset
	case c.Visibility == "public":
		return "public_chat"
	}
	return "private_chat"
}

// encrypt sees to the encryption of a room that must have it, which is not for
// spaces: nothing is said in them.
func (c *Create) encrypt() {
	var kind string
	json.Unmarshal(c.Content["type"], &kind) // what is no string is refused later, or is no space
	if kind == "m.space" {
		return
	}
	isEncryption := func(s InitialState) bool { return s.Type == mx.RoomEncryption && s.StateKey == "" }
	if i := slices.IndexFunc(c.InitialState, isEncryption); i >= 0 {
		if pdu.FieldString(c.InitialState[i].Content, "algorithm") != "" {
			return
		}
		c.InitialState = slices.Delete(slices.Clone(c.InitialState), i, i+1)
	}
	c.InitialState = append(c.InitialState, InitialState{Type: mx.RoomEncryption, Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)})
}

func randomID() string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := make([]byte, 18)
	rand.Read(b)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}

// firstEvents are the events of a new room in the order the specification gives.
func (r *Rooms) firstEvents(ctx context.Context, v pdu.Version, creator, alias string, c Create, set preset) (list []NewEvent, err error) {
	var fail error
	empty := ""
	add := func(typ, key string, content any) {
		raw, err := json.Marshal(content)
		if err != nil && fail == nil {
			fail = err
		}
		sk := &empty
		if key != "" {
			sk = &key
		}
		list = append(list, NewEvent{Sender: creator, Type: typ, StateKey: sk, Content: raw})
	}

	create := map[string]any{}
	for k, val := range c.Content {
		create[k] = val
	}
	create["room_version"] = string(v)
	delete(create, "creator")
	if !v.AtLeast(11) {
		create["creator"] = creator
	}
	trusted := c.Preset == "trusted_private_chat"
	if v.PrivilegedCreators() && trusted && len(c.Invite) > 0 {
		var also []string
		if raw, ok := c.Content["additional_creators"]; ok && json.Unmarshal(raw, &also) != nil {
			return nil, mx.Errorf(mx.BadJSON, "additional_creators must be a list of user IDs.")
		}
		seen := map[string]bool{creator: true}
		merged := []string{}
		for _, u := range append(also, c.Invite...) {
			if !seen[u] {
				seen[u] = true
				merged = append(merged, u)
			}
		}
		create["additional_creators"] = merged
	}
	add(mx.RoomCreate, "", create)

	join, err := r.memberContent(ctx, memberChange{target: creator, membership: mx.Join})
	if err != nil {
		return nil, err
	}
	list = append(list, NewEvent{Sender: creator, Type: mx.RoomMember, StateKey: &creator, Content: join})

	add(mx.RoomPowerLevels, "", powerLevels(v, creator, trusted, c))
	if alias != "" {
		add(mx.RoomCanonicalAlias, "", map[string]any{"alias": alias})
	}
	given := map[StateKey]bool{}
	for _, s := range c.InitialState {
		given[StateKey{s.Type, s.StateKey}] = true
	}
	// What initial_state sets anyway is not sent twice.
	if !given[StateKey{mx.RoomJoinRules, ""}] {
		add(mx.RoomJoinRules, "", map[string]any{"join_rule": set.joinRule})
	}
	if !given[StateKey{mx.RoomHistoryVisibility, ""}] {
		add(mx.RoomHistoryVisibility, "", map[string]any{"history_visibility": set.history})
	}
	if !given[StateKey{mx.RoomGuestAccess, ""}] {
		add(mx.RoomGuestAccess, "", map[string]any{"guest_access": set.guests})
	}
	for _, s := range c.InitialState {
		switch s.Type {
		case "":
			return nil, mx.Errorf(mx.BadJSON, "Every event of initial_state needs a type.")
		case mx.RoomCreate:
			return nil, mx.Errorf(mx.BadJSON, "initial_state cannot hold m.room.create: use creation_content.")
		}
		if len(s.Content) == 0 {
			return nil, mx.Errorf(mx.MissingParam, "Every event of initial_state needs a content.")
		}
		add(s.Type, s.StateKey, s.Content)
	}
	if c.Name != "" {
		add(mx.RoomName, "", map[string]any{"name": c.Name})
	}
	if c.Topic != "" {
		add(mx.RoomTopic, "", map[string]any{"topic": c.Topic,
			"m.topic": map[string]any{"m.text": []any{map[string]any{"body": c.Topic}}}})
	}
	invited := map[string]bool{creator: true}
	for _, u := range c.Invite {
		if invited[u] {
			continue
		}
		invited[u] = true
		content, err := r.memberContent(ctx, memberChange{target: u, membership: mx.Invite, direct: c.IsDirect})
		if err != nil {
			return nil, err
		}
		list = append(list, NewEvent{Sender: creator, Type: mx.RoomMember, StateKey: &u, Content: content})
	}
	return list, fail
}

// powerLevels is the content of a new room's m.room.power_levels. Everybody may
// take part in calls: their membership is state.
func powerLevels(v pdu.Version, creator string, trusted bool, c Create) map[string]any {
	users := map[string]int64{}
	if !v.PrivilegedCreators() {
		users[creator] = 100
		if trusted {
			for _, u := range c.Invite {
				users[u] = 100
			}
		}
	}
	tombstone := 100
	if v.PrivilegedCreators() {
		tombstone = 150
	}
	pl := map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": 0, "historical": 100,
		"events": map[string]int{
			mx.RoomName: 50, mx.RoomAvatar: 50, mx.RoomCanonicalAlias: 50,
			mx.RoomPowerLevels: 100, mx.RoomHistoryVisibility: 100, mx.RoomServerACL: 100, mx.RoomEncryption: 100,
			mx.RoomTombstone: tombstone, mx.CallMember: 0,
		},
	}
	if c.Preset == "public_chat" {
		pl["invite"] = 50
	}
	for k, raw := range c.PowerLevels {
		pl[k] = raw
	}
	return pl
}

var errAliasTaken = mx.Errorf(mx.RoomInUse, "The alias is taken. Choose another.")

func insertAlias(tx *store.Tx, alias string, nid int64, creator string) error {
	_, err := tx.Exec(`INSERT INTO room_aliases (alias, room, creator) VALUES ($1, $2, $3)`, alias, nid, creator)
	if store.IsConflict(err) {
		return errAliasTaken
	}
	return err
}

func loadAlias(q store.Querier, alias string) (roomID string, err error) {
	err = q.QueryRow(`SELECT r.room_id FROM room_aliases a JOIN rooms r ON r.nid = a.room WHERE a.alias = $1`, alias).Scan(&roomID)
	return roomID, err
}

// checkAliases refuses a canonical alias that does not lead to the room. Those
// that stood there before are not looked at again.
// Spec: cs#put_matrixclientv3roomsroomidstateeventtypestatekey
func (b *batch) checkAliases(content json.RawMessage) error {
	read := func(raw []byte) []string {
		list, _ := pdu.Strings(pdu.Field(raw, "alt_aliases"))
		if a := pdu.FieldString(raw, "alias"); a != "" {
			list = append(list, a)
		}
		return list
	}
	old, err := b.get(mx.RoomCanonicalAlias, "")
	if err != nil {
		return err
	}
	had := map[string]bool{}
	if old != nil {
		for _, a := range read(old.Content) {
			had[a] = true
		}
	}
	return b.r.db.Read(b.ctx, func(q store.Querier) error {
		for _, a := range read(content) {
			if had[a] {
				continue
			}
			if _, _, err := mx.ParseAlias(a); err != nil {
				return err
			}
			id, err := loadAlias(q, a)
			if errors.Is(err, store.ErrNotFound) || err == nil && id != b.h.id {
				return mx.Errorf(mx.BadAlias, "The alias %.80s does not lead to this room.", a)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
