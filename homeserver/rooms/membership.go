package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// memberChange is a change of a membership as a client asks for it.
type memberChange struct {
	room, sender, target string
	membership           string
	reason               string
	direct               bool
	extra                map[string]json.RawMessage // further content of the request
	ts                   int64
}

func (r *Rooms) profile(ctx context.Context, userID string) (name, avatar string, err error) {
	if r.o.Profile == nil || mx.Domain(userID) != r.o.ServerName {
		return "", "", nil
	}
	err = r.db.Read(ctx, func(q store.Querier) error {
		name, avatar, err = r.o.Profile(q, userID)
		return err
	})
	return name, avatar, err
}

// member builds the content of a member event.
func (r *Rooms) memberContent(ctx context.Context, m memberChange) (json.RawMessage, error) {
	content := map[string]any{}
	for k, v := range m.extra {
		content[k] = v
	}
	content["membership"] = m.membership
	if m.reason != "" {
		content["reason"] = m.reason
	}
	if m.direct {
		content["is_direct"] = true
	}
	switch m.membership {
	case mx.Join, mx.Invite, mx.Knock:
		name, avatar, err := r.profile(ctx, m.target)
		if err != nil {
			return nil, err
		}
		if name != "" {
			content["displayname"] = name
		}
		if avatar != "" {
			content["avatar_url"] = avatar
		}
	}
	return json.Marshal(content)
}

// setMember changes a membership where check, which sees the one there is, lets
// it. check may return errDone: there is nothing to change.
func (r *Rooms) setMember(ctx context.Context, m memberChange, check func(b *batch, now string) error) error {
	if !mx.ValidUserID(m.target) {
		return mx.Errorf(mx.InvalidParam, "%.60q is not a user ID.", m.target)
	}
	content, err := r.memberContent(ctx, m)
	if err != nil {
		return err
	}
	return r.change(ctx, m.room, func(b *batch) error {
		if err := check(b, b.membership(m.target)); err == errDone {
			return nil
		} else if err != nil {
			return err
		}
		c, err := b.authoriseJoin(m.target, content)
		if err != nil {
			return err
		}
		_, err = b.add(NewEvent{Sender: m.sender, Type: mx.RoomMember, StateKey: &m.target, Content: c, Timestamp: m.ts})
		return err
	})
}

var errDone = errors.New("rooms: nothing to change")

func (b *batch) joinRules() (mx.JoinRulesContent, error) {
	var rules mx.JoinRulesContent
	e, err := b.get(mx.RoomJoinRules, "")
	if err != nil || e == nil {
		rules.JoinRule = mx.JoinInvite
		return rules, err
	}
	if json.Unmarshal(e.Content, &rules) != nil {
		rules = mx.JoinRulesContent{JoinRule: e.ContentString("join_rule")}
	}
	return rules, nil
}

// authoriseJoin names, in the content of a join by membership of another room,
// the local member who could have invited. Other content is returned as it is.
// Errors: Forbidden where no allowed room lets the user in.
// Spec: cs#restricted-rooms
func (b *batch) authoriseJoin(userID string, content json.RawMessage) (json.RawMessage, error) {
	if pdu.FieldString(content, "membership") != mx.Join {
		return content, nil
	}
	if b.membership(userID) != mx.Join {
		if err := b.r.notBlocked(b.h.id); err != nil {
			return nil, err
		}
	}
	if now := b.membership(userID); now == mx.Join || now == mx.Invite || now == mx.Ban {
		return content, nil
	}
	rules, err := b.joinRules()
	if err != nil || !b.h.version.AtLeast(8) || rules.JoinRule != mx.JoinRestricted && rules.JoinRule != mx.JoinKnockRestricted {
		return content, err
	}
	in := false
	err = b.r.db.Read(b.ctx, func(q store.Querier) error {
		for _, a := range rules.Allow {
			if a.Type != "m.room_membership" {
				continue
			}
			if in, err = b.r.IsJoined(q, a.RoomID, userID); in || err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, mx.Errorf(mx.Forbidden, "Only members of the rooms that this room names may join it. Ask for an invitation.")
	}
	via, err := b.inviter()
	if err != nil {
		return nil, err
	}
	if via == "" {
		return nil, mx.Errorf(mx.UnableToAuthorizeJoin, "Nobody in the room can let you in. Ask for an invitation.")
	}
	m := map[string]json.RawMessage{}
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, mx.Errorf(mx.BadJSON, "The content of a member event must be a JSON object.")
	}
	m["join_authorised_via_users_server"], _ = json.Marshal(via)
	return json.Marshal(m)
}

// inviter is a joined local user with the power to invite, or "".
func (b *batch) inviter() (string, error) {
	var readErr error
	pl := eventauth.LevelsOf(b.h.version, b.lookup(&readErr))
	if readErr != nil {
		return "", readErr
	}
	best, level := "", int64(0)
	for k, e := range b.h.state {
		if k.Type != mx.RoomMember || e.membership != mx.Join || mx.Domain(k.Key) != b.r.o.ServerName {
			continue
		}
		if n := pl.User(k.Key); n >= pl.Invite && (best == "" || n > level || n == level && k.Key < best) {
			best, level = k.Key, n
		}
	}
	return best, nil
}

// Invite invites a user. Errors: Forbidden.
func (r *Rooms) Invite(ctx context.Context, roomID, sender, target, reason string, direct bool) error {
	return r.setMember(ctx, memberChange{room: roomID, sender: sender, target: target, membership: mx.Invite, reason: reason, direct: direct},
		func(b *batch, now string) error {
			if b.membership(sender) != mx.Join {
				return errNotIn()
			}
			switch now {
			case mx.Join:
				return mx.Errorf(mx.Forbidden, "%s is in the room already.", target)
			case mx.Ban:
				return mx.Errorf(mx.Forbidden, "%s is banned from the room.", target)
			case mx.Invite:
				return errDone
			}
			return b.mayInvite(sender, target)
		})
}

// mayInvite refuses an invitation of a local user who takes none. Spec: cs#invite-permission
func (b *batch) mayInvite(sender, target string) error {
	return b.r.db.Read(b.ctx, func(q store.Querier) error { return b.r.takesInvites(q, sender, target) })
}

// takesInvites refuses what a user does not want. The server's own user is nobody to
// invite, and who is told something by it does not choose.
func (r *Rooms) takesInvites(q store.Querier, sender, target string) error {
	switch {
	case r.o.NoticesUser != "" && target == r.o.NoticesUser:
		return mx.Errorf(mx.InviteBlocked, "%s is the server itself. It takes no invitations.", target)
	case r.o.InvitesBlocked == nil, mx.Domain(target) != r.o.ServerName, r.o.NoticesUser != "" && sender == r.o.NoticesUser:
		return nil
	}
	blocked, err := r.o.InvitesBlocked(q, target)
	if err == nil && blocked {
		err = mx.Errorf(mx.InviteBlocked, "%s does not take invitations.", target)
	}
	return err
}

// Join joins a user to a room. extra is further content of the member event.
// Errors: Forbidden, NotFound.
func (r *Rooms) Join(ctx context.Context, roomID, userID, reason string, extra map[string]json.RawMessage) error {
	return r.setMember(ctx, memberChange{room: roomID, sender: userID, target: userID, membership: mx.Join, reason: reason, extra: extra},
		func(b *batch, now string) error {
			if now == mx.Join {
				return errDone
			}
			return nil
		})
}

// Leave takes a user out of a room, or declines the invitation, or takes back the
// knock. Who has left already stays so. Errors: Forbidden, NotFound.
func (r *Rooms) Leave(ctx context.Context, roomID, userID, reason string) error {
	return r.leaveIf(ctx, roomID, userID, reason, func(*batch) error { return nil })
}

// leaveIf is Leave if may lets the user.
func (r *Rooms) leaveIf(ctx context.Context, roomID, userID, reason string, may func(b *batch) error) error {
	return r.setMember(ctx, memberChange{room: roomID, sender: userID, target: userID, membership: mx.Leave, reason: reason},
		func(b *batch, now string) error {
			if err := may(b); err != nil {
				return err
			}
			switch now {
			case mx.Leave:
				return errDone
			case "", mx.Ban:
				return errNotIn()
			}
			return nil
		})
}

// Kick takes somebody else out of a room. Errors: Forbidden, NotFound.
func (r *Rooms) Kick(ctx context.Context, roomID, sender, target, reason string) error {
	return r.setMember(ctx, memberChange{room: roomID, sender: sender, target: target, membership: mx.Leave, reason: reason},
		func(b *batch, now string) error {
			if b.membership(sender) != mx.Join {
				return errNotIn()
			}
			if now != mx.Join && now != mx.Invite && now != mx.Knock {
				return mx.Errorf(mx.Forbidden, "%s is not in the room.", target)
			}
			return nil
		})
}

// Ban bans a user. Errors: Forbidden, NotFound.
func (r *Rooms) Ban(ctx context.Context, roomID, sender, target, reason string) error {
	return r.setMember(ctx, memberChange{room: roomID, sender: sender, target: target, membership: mx.Ban, reason: reason},
		func(b *batch, now string) error {
			if b.membership(sender) != mx.Join {
				return errNotIn()
			}
			if now == mx.Ban {
				return errDone
			}
			return nil
		})
}

// Unban lifts a ban. Errors: Forbidden, NotFound.
func (r *Rooms) Unban(ctx context.Context, roomID, sender, target, reason string) error {
	return r.setMember(ctx, memberChange{room: roomID, sender: sender, target: target, membership: mx.Leave, reason: reason},
		func(b *batch, now string) error {
			if b.membership(sender) != mx.Join {
				return errNotIn()
			}
			if now != mx.Ban {
				return mx.Errorf(mx.Forbidden, "%s is not banned.", target)
			}
			return nil
		})
}

// Knock asks to be let in. Errors: Forbidden, NotFound.
func (r *Rooms) Knock(ctx context.Context, roomID, userID, reason string) error {
	return r.setMember(ctx, memberChange{room: roomID, sender: userID, target: userID, membership: mx.Knock, reason: reason},
		func(b *batch, now string) error {
			if !b.h.version.AtLeast(7) {
				return mx.Errorf(mx.Forbidden, "Rooms of this version take no requests to join.")
			}
			switch now {
			case mx.Knock:
				return errDone
			case mx.Join, mx.Invite:
				return mx.Errorf(mx.Forbidden, "You are in the room, or invited, already.")
			}
			return nil
		})
}

// Forget hides a room that was left from its user. Errors: Unknown while the user
// is in the room, NotFound.
func (r *Rooms) Forget(ctx context.Context, roomID, userID string) error {
	return r.db.Write(ctx, func(tx *store.Tx) error {
		nid, err := r.nid(tx, roomID)
		if errors.Is(err, store.ErrNotFound) {
			return errNoRoom
		}
		if err != nil {
			return err
		}
		m, _, _, err := loadMembership(tx, nid, userID)
		if errors.Is(err, store.ErrNotFound) {
			return mx.Errorf(mx.Unknown, "You were never in this room.")
		}
		if err != nil {
			return err
		}
		if m != mx.Leave && m != mx.Ban {
			return mx.Errorf(mx.Unknown, "Leave the room before you forget it.")
		}
		tx.Touch(notify.Member, userID)
		return storeForgotten(tx, nid, userID)
	})
}

// SetProfile brings a user's display name and avatar into the member events of
// the rooms that the user is joined to. Rooms that refuse it are passed over.
func (r *Rooms) SetProfile(ctx context.Context, userID, displayName, avatarURL string) error {
	var rooms []string
	err := r.db.Read(ctx, func(q store.Querier) (err error) {
		rooms, err = r.JoinedRooms(q, userID)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range rooms {
		err := r.change(ctx, id, func(b *batch) error {
			old, err := b.get(mx.RoomMember, userID)
			if err != nil || old == nil || old.Membership() != mx.Join {
				return err
			}
			content := map[string]json.RawMessage{}
			if err := json.Unmarshal(old.Content, &content); err != nil {
				return err
			}
			for k, v := range map[string]string{"displayname": displayName, "avatar_url": avatarURL} {
				if v == "" {
					delete(content, k)
				} else {
					content[k], _ = json.Marshal(v)
				}
			}
			delete(content, "join_authorised_via_users_server")
			delete(content, "reason")
			c, err := json.Marshal(content)
			if err != nil {
				return err
			}
			if now, err := pdu.Canonical(c); err != nil || string(now) == string(old.Content) {
				return err
			}
			_, err = b.add(NewEvent{Sender: userID, Type: mx.RoomMember, StateKey: &userID, Content: c})
			return err
		})
		var refusal *mx.Error
		if err != nil && !errors.As(err, &refusal) {
			return err
		}
	}
	return nil
}

// Resolve gives the room ID of a room ID or alias. Errors: NotFound, InvalidParam.
func (r *Rooms) Resolve(q store.Querier, idOrAlias string) (roomID string, err error) {
	if strings.HasPrefix(idOrAlias, "!") {
		if _, _, err := mx.ParseRoomID(idOrAlias); err != nil {
			return "", err
		}
		return idOrAlias, nil
	}
	if _, _, err := mx.ParseAlias(idOrAlias); err != nil {
		return "", err
	}
	roomID, err = loadAlias(q, idOrAlias)
	if errors.Is(err, store.ErrNotFound) {
		return "", mx.Errorf(mx.NotFound, "There is no room with the alias %.80s.", idOrAlias)
	}
	return roomID, err
}
