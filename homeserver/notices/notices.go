// Package notices is how the server's administrators tell people something: a user of
// the server's own speaks to each person in a room for them alone.
//
// Invariants: each person has at most one such room in use, which is found by who is
// in it and by its create event, so that a room that was deleted is simply made anew;
// the person can read there and not leave; the user has no account, so that nobody can
// be it; a notice with a transaction ID is sent once.
package notices

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"slices"
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

// Localpart is that of the server's own user. No account may have it.
const Localpart = "_server"

// Tag marks the room for clients. Spec: cs#server-notices
const Tag = "m.server_notice"

// Settings are what administrators decided about notices.
type Settings struct {
	Name, Avatar string // of the server's user; Avatar "": none
	RoomName     string
	RoomAvatar   string // "": none
	Topic        string // "": none
	Ask          bool   // people are invited; else they are in the room at once
	Reply        bool   // people may write in their room
}

// Options of New.
type Options struct {
	DB    *store.DB
	Rooms *rooms.Rooms
	// HasTag and AddTag are of the tags that users have on rooms.
	HasTag func(q store.Querier, userID, roomID, tag string) (bool, error)
	AddTag func(tx *store.Tx, userID, roomID, tag string) error
	// HasAccount reports whether a user has an account.
	HasAccount func(q store.Querier, userID string) (bool, error)
	Settings   func() Settings
}

// Service sends notices. Its methods are safe for concurrent use.
type Service struct {
	o Options
	// People's turns: two notices to one person must not make two rooms.
	turns [64]sync.Mutex
}

// New makes the service.
func New(o Options) *Service { return &Service{o: o} }

// Notice is what somebody is told.
type Notice struct {
	UserID   string          // who is told
	Type     string          // "": m.room.message
	StateKey *string         // not nil: it is state of the room
	Content  json.RawMessage // of the event, as it is
	By, Txn  string          // whose transaction; Txn "": none
}

// kept are the types of state that make the room what it is: the server alone sets them.
var kept = []string{mx.RoomCreate, mx.RoomMember, mx.RoomPowerLevels, mx.RoomJoinRules, mx.RoomHistoryVisibility, mx.RoomGuestAccess,
	mx.RoomEncryption, mx.RoomTombstone, mx.RoomServerACL}

// Send tells a local user something, who must have an account, and returns the event's
// ID. Errors: *mx.Error BadJSON, Forbidden, TooLarge.
func (s *Service) Send(ctx context.Context, n Notice) (eventID string, err error) {
	if n.Type == "" {
		n.Type = mx.RoomMessage
	}
	if !pdu.IsObject(n.Content) {
		return "", mx.Errorf(mx.BadJSON, "content must be the event's content, a JSON object.")
	}
	if slices.Contains(kept, n.Type) {
		return "", mx.Errorf(mx.Forbidden, "What a room of notices is like is not changed by notices: %s cannot be sent.", n.Type)
	}
	h := fnv.New32a()
	h.Write([]byte(n.UserID))
	turn := &s.turns[h.Sum32()%uint32(len(s.turns))]
	turn.Lock()
	defer turn.Unlock()
	roomID, err := s.room(ctx, n.UserID)
	if err != nil {
		return "", err
	}
	e := rooms.NewEvent{RoomID: roomID, Sender: s.o.Rooms.NoticesUser(), Type: n.Type, StateKey: n.StateKey, Content: n.Content}
	if n.Txn != "" {
		e.DeviceID, e.TxnID = "notices of "+n.By, n.Txn
	}
	return s.o.Rooms.Send(ctx, e)
}

// room is the room of a user's notices, as the settings want it, with the user in it.
func (s *Service) room(ctx context.Context, userID string) (roomID string, err error) {
	set := s.o.Settings()
	var now string
	var tagged bool
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		taken, err := s.o.HasAccount(q, s.o.Rooms.NoticesUser())
		if err != nil {
			return err
		}
		if taken {
			return mx.Errorf(mx.Forbidden, "%s is somebody's account, from before this name was the server's own. Close that account to send notices.", s.o.Rooms.NoticesUser())
		}
		if roomID, err = s.o.Rooms.NoticesRoom(q, userID); err != nil {
			return err
		}
		if tagged, err = s.o.HasTag(q, userID, roomID, Tag); err != nil {
			return err
		}
		now, err = s.o.Rooms.Membership(q, roomID, userID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return s.create(ctx, userID, set)
	}
	if err != nil {
		return "", err
	}
	if err := s.dress(ctx, roomID, set); err != nil {
		return "", err
	}
	if now != mx.Join && now != mx.Invite {
		if err := s.o.Rooms.Invite(ctx, roomID, s.o.Rooms.NoticesUser(), userID, "", false); err != nil {
			return "", err
		}
		now = mx.Invite
	}
	if now == mx.Invite && !set.Ask {
		if err := s.o.Rooms.Join(ctx, roomID, userID, "", nil); err != nil {
			return "", err
		}
	}
	if !tagged { // its user took it away
		err = s.o.DB.Write(ctx, func(tx *store.Tx) error { return s.o.AddTag(tx, userID, roomID, Tag) })
	}
	return roomID, err
}

// Levels of power. People cannot write, nor invite or call anybody, unless they may
// reply; then they can write.
const (
	mute  = -10
	speak = 0
)

func level(set Settings) int {
	if set.Reply {
		return speak
	}
	return mute
}

func (s *Service) create(ctx context.Context, userID string, set Settings) (string, error) {
	raw := func(v any) json.RawMessage { b, _ := json.Marshal(v); return b }
	c := rooms.Create{
		Preset: "private_chat", Name: set.RoomName, Topic: set.Topic, Invite: []string{userID},
		Content:      map[string]json.RawMessage{rooms.NoticesFor: raw(userID), "m.federate": raw(false)},
		InitialState: []rooms.InitialState{{Type: mx.RoomGuestAccess, Content: raw(map[string]string{"guest_access": "forbidden"})}},
		PowerLevels: map[string]json.RawMessage{
			"users_default": raw(level(set)), "invite": raw(50),
			"events": raw(map[string]int{mx.RoomPowerLevels: 100, mx.RoomHistoryVisibility: 100, mx.RoomServerACL: 100, mx.RoomEncryption: 100, mx.RoomTombstone: 100}),
		},
	}
	if set.RoomAvatar != "" {
		c.InitialState = append(c.InitialState, rooms.InitialState{Type: mx.RoomAvatar, Content: raw(map[string]string{"url": set.RoomAvatar})})
	}
	if !set.Ask {
		c.Join = []string{userID}
	}
	return s.o.Rooms.Create(ctx, s.o.Rooms.NoticesUser(), c)
}

// dress brings a room's name, topic, pictures and levels to what the settings say.
func (s *Service) dress(ctx context.Context, roomID string, set Settings) error {
	me := s.o.Rooms.NoticesUser()
	var list []rooms.NewEvent
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		want := func(typ, key string, change func(content map[string]any)) error {
			content := map[string]any{}
			e, err := s.o.Rooms.State(q, roomID, typ, key)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err == nil {
				if err := json.Unmarshal(e.Content, &content); err != nil {
					return err
				}
			}
			change(content)
			if len(content) == 0 && e == nil {
				return nil
			}
			raw, err := json.Marshal(content)
			list = append(list, rooms.NewEvent{Sender: me, Type: typ, StateKey: &key, Content: raw})
			return err
		}
		text := func(key, value string) func(map[string]any) {
			return func(c map[string]any) {
				if value == "" {
					delete(c, key)
				} else {
					c[key] = value
				}
			}
		}
		return errors.Join(
			want(mx.RoomMember, me, func(c map[string]any) { text("displayname", set.Name)(c); text("avatar_url", set.Avatar)(c) }),
			want(mx.RoomName, "", text("name", set.RoomName)),
			want(mx.RoomAvatar, "", text("url", set.RoomAvatar)),
			want(mx.RoomTopic, "", func(c map[string]any) {
				if old, _ := c["topic"].(string); old != set.Topic {
					clear(c)
					if set.Topic != "" {
						c["topic"] = set.Topic
						c["m.topic"] = map[string]any{"m.text": []any{map[string]any{"body": set.Topic}}}
					}
				}
			}),
			want(mx.RoomPowerLevels, "", func(c map[string]any) { c["users_default"] = level(set) }),
		)
	})
	if err != nil {
		return err
	}
	return s.o.Rooms.SetStates(ctx, roomID, list)
}

// Stored is the hook by which the room is tagged for its user in the transaction that
// invites them.
func (s *Service) Stored(tx *store.Tx, e *rooms.Event) error {
	me := s.o.Rooms.NoticesUser()
	if e.Type != mx.RoomMember || e.Sender != me || e.StateKey == nil || *e.StateKey == me || e.Membership() != mx.Invite {
		return nil
	}
	whose, err := s.o.Rooms.NoticesOf(tx, e.RoomID)
	if err != nil || whose != *e.StateKey {
		return err
	}
	return s.o.AddTag(tx, whose, e.RoomID, Tag)
}
