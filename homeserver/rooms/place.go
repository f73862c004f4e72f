package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// Placing is what is to become of people of this server in a room, as its administrators
// decided. What the room's rules allow nobody is refused, for one person without the others.
type Placing struct {
	Join   []string // who is to be in it
	Out    []string // who is to be out of it
	Levels []LevelChange
	Reason string // in the member events
	// Also runs in the same write, in any case. nil: nothing.
	Also func(tx *store.Tx, done Placed) error
}

// LevelChange gives somebody a power level of their own, or takes back one that was given.
type LevelChange struct {
	UserID string
	// From is the level that was given before: if the user has another now, somebody
	// decided otherwise, and it stays. 0: none was given; who has as much already keeps it.
	From int64
	To   int64  // 0: the level is taken back
	Back *int64 // with To 0: the level that comes back; nil: the room's default
}

// Placed is what became of people.
type Placed struct {
	Joined []string
	Out    []string
	// Levels are the changes that were made, with the level of their own that each user
	// had before; nil: none.
	Levels  map[string]*int64
	Kept    []string          // whose level is not to be changed, since it is others' decision or as high
	Refused map[string]string // why not, by user; levels by LevelOf
}

// LevelOf is the key in Placed.Refused of a user's power level.
func LevelOf(userID string) string { return "level " + userID }

// Place puts people into a room, takes others out and changes power levels, in one write.
// Who joins does it as they could themselves, else on an invitation of the most powerful
// user of this server in the room; who is put out is so by that user, and leaves by
// themselves where nobody may do it. Errors: NotFound.
func (r *Rooms) Place(ctx context.Context, roomID string, p Placing) (done Placed, err error) {
	contents := map[string][2]json.RawMessage{}
	for _, u := range p.Join {
		var c [2]json.RawMessage
		for i, membership := range []string{mx.Invite, mx.Join} {
			if c[i], err = r.memberContent(ctx, memberChange{target: u, membership: membership, reason: p.Reason}); err != nil {
				return Placed{}, err
			}
		}
		contents[u] = c
	}
	out, err := json.Marshal(map[string]string{"membership": mx.Leave, "reason": p.Reason})
	if err != nil {
		return Placed{}, err
	}
	err = r.change(ctx, roomID, func(b *batch) error {
		pl := &placer{b: b, done: Placed{Levels: map[string]*int64{}, Refused: map[string]string{}}}
		// Who is put out must have less power than whoever does it, so that lower levels
		// come first; higher ones get those only who are in.
		var lower, higher []LevelChange
		for _, c := range p.Levels {
			if c.To < c.From {
				lower = append(lower, c)
			} else {
				higher = append(higher, c)
			}
		}
		if err := pl.levels(lower); err != nil {
			return err
		}
		for _, u := range p.Out {
			if err := pl.out(u, out); err != nil {
				return err
			}
		}
		for _, u := range p.Join {
			if err := pl.join(u, contents[u]); err != nil {
				return err
			}
		}
		higher = slices.DeleteFunc(higher, func(c LevelChange) bool { return b.membership(c.UserID) != mx.Join })
		if err := pl.levels(higher); err != nil {
			return err
		}
		done = pl.done
		if p.Also != nil {
			b.also = append(b.also, func(tx *store.Tx, _ int64) error { return p.Also(tx, done) })
		}
		return nil
	})
	return done, err
}

type placer struct {
	b    *batch
	done Placed
}

func (p *placer) power() (*eventauth.PowerLevels, error) {
	var readErr error
	pl := eventauth.LevelsOf(p.b.h.version, p.b.lookup(&readErr))
	return pl, readErr
}

// refuse notes why something about a user is not done. Errors that are no refusal are
// returned.
func (p *placer) refuse(key string, err error) error {
	var e *mx.Error
	if !errors.As(err, &e) {
		return err
	}
	p.done.Refused[key] = e.Msg
	return nil
}

func (p *placer) member(sender, userID string, content json.RawMessage) error {
	_, err := p.b.add(NewEvent{Sender: sender, Type: mx.RoomMember, StateKey: &userID, Content: content})
	return err
}

func (p *placer) join(userID string, content [2]json.RawMessage) error {
	b := p.b
	now := b.membership(userID)
	if now == mx.Join {
		return nil
	}
	if err := b.r.notBlocked(b.h.id); err != nil {
		return p.refuse(userID, err)
	}
	if now == mx.Ban {
		p.done.Refused[userID] = "Banned from the room."
		return nil
	}
	join, err := b.authoriseJoin(userID, content[1])
	if err != nil && !isCode(err, mx.Forbidden, mx.UnableToAuthorizeJoin) {
		return err
	}
	rules, e := b.joinRules()
	if e != nil {
		return e
	}
	if err != nil || now != mx.Invite && rules.JoinRule != mx.JoinPublic && pdu.Field(join, "join_authorised_via_users_server") == nil {
		by, err := b.inviter()
		if err != nil {
			return err
		}
		if by == "" {
			p.done.Refused[userID] = "Nobody of this server who is in the room may invite others to it."
			return nil
		}
		if err := p.member(by, userID, content[0]); err != nil {
			return p.refuse(userID, err)
		}
		join = content[1]
	}
	if err := p.member(userID, userID, join); err != nil {
		return p.refuse(userID, err)
	}
	p.done.Joined = append(p.done.Joined, userID)
	return nil
}

func (p *placer) out(userID string, content json.RawMessage) error {
	b := p.b
	switch b.membership(userID) {
	case mx.Join, mx.Invite, mx.Knock:
	default:
		return nil
	}
	pl, err := p.power()
	if err != nil {
		return err
	}
	sender := userID
	if by, level := b.strongest(pl); by != "" && by != userID && level >= pl.Kick && level > pl.User(userID) {
		sender = by
	}
	if err := p.member(sender, userID, content); err != nil {
		return p.refuse(userID, err)
	}
	p.done.Out = append(p.done.Out, userID)
	return nil
}

// levels changes what it may of the power levels in one event, and in one more for each
// who gives back a level that nobody is above.
func (p *placer) levels(list []LevelChange) error {
	b := p.b
	pl, err := p.power()
	if err != nil {
		return err
	}
	by, most := b.strongest(pl)
	need := pl.Event(mx.RoomPowerLevels, true)
	var all []LevelChange
	for _, c := range list {
		own, has := pl.Users[c.UserID]
		switch {
		case c.From == 0 && pl.User(c.UserID) >= c.To, c.From != 0 && (!has || own != c.From), c.From == c.To:
			p.done.Kept = append(p.done.Kept, c.UserID)
		case c.From != 0 && c.To < c.From && own >= most && by != c.UserID:
			// Nobody can lower a level that is as high as the highest, but who has it.
			if b.membership(c.UserID) != mx.Join {
				p.done.Refused[LevelOf(c.UserID)] = "Nobody of this server who is in the room has more power than this user, to take some away."
				continue
			}
			if err := p.setLevels(c.UserID, pl, c); err != nil {
				return err
			}
		case by == "" || most < need || c.To > most:
			p.done.Refused[LevelOf(c.UserID)] = "Nobody of this server who is in the room has the power to give this one."
		default:
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return nil
	}
	// The strongest comes last: it must not give away what it needs for the others.
	slices.SortStableFunc(all, func(a, b LevelChange) int {
		switch {
		case a.UserID == by && b.UserID != by:
			return 1
		case b.UserID == by && a.UserID != by:
			return -1
		}
		return 0
	})
	if last := len(all) - 1; all[last].UserID == by {
		if err := p.setLevels(by, pl, all[:last]...); err != nil {
			return err
		}
		return p.setLevels(by, pl, all[last])
	}
	return p.setLevels(by, pl, all...)
}

// setLevels sends the room's power levels with changes.
func (p *placer) setLevels(sender string, before *eventauth.PowerLevels, list ...LevelChange) error {
	if len(list) == 0 {
		return nil
	}
	want := map[string]*int64{}
	for _, c := range list {
		switch {
		case c.To != 0:
			want[c.UserID] = &c.To
		default:
			want[c.UserID] = c.Back
		}
	}
	content, err := p.b.withLevels(want)
	if err != nil {
		return err
	}
	_, err = p.b.add(NewEvent{Sender: sender, Type: mx.RoomPowerLevels, StateKey: new(string), Content: content})
	for _, c := range list {
		if err != nil {
			if err := p.refuse(LevelOf(c.UserID), err); err != nil {
				return err
			}
			continue
		}
		p.done.Levels[c.UserID] = nil
		if own, has := before.Users[c.UserID]; has {
			p.done.Levels[c.UserID] = &own
		}
	}
	return nil
}
