package userdata

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pushrules"
	"holdfast/store"
)

// RoomReplaced gives a user's tags, push rules and mark as a direct chat of a room
// also to the room that replaces it. What the user has set for the new room stays.
// Spec: cs#server-behaviour-16 (room upgrades)
func (s *Service) RoomReplaced(tx *store.Tx, userID, oldID, newID string) error {
	for _, f := range []func(tx *store.Tx, userID, oldID, newID string) error{s.copyTags, s.copyDirect, s.copyRules} {
		var full *mx.Error
		// Who has no space left joins all the same.
		if err := f(tx, userID, oldID, newID); err != nil && !errors.As(err, &full) {
			return err
		}
	}
	return nil
}

func (s *Service) copyTags(tx *store.Tx, userID, oldID, newID string) error {
	tags, err := loadData(tx, userID, oldID, mx.Tag)
	if err == nil {
		if _, err = loadData(tx, userID, newID, mx.Tag); err == store.ErrNotFound {
			return s.SetData(tx, userID, newID, mx.Tag, tags)
		}
	}
	if err == store.ErrNotFound {
		return nil
	}
	return err
}

func (s *Service) copyDirect(tx *store.Tx, userID, oldID, newID string) error {
	raw, err := loadData(tx, userID, "", mx.Direct)
	if err == store.ErrNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	var chats map[string][]string
	if json.Unmarshal(raw, &chats) != nil {
		return nil // not written as the specification says
	}
	changed := false
	for with, list := range chats {
		if slices.Contains(list, oldID) && !slices.Contains(list, newID) {
			chats[with], changed = append(list, newID), true
		}
	}
	if !changed {
		return nil
	}
	if raw, err = json.Marshal(chats); err != nil {
		return err
	}
	return s.SetData(tx, userID, "", mx.Direct, raw)
}

func (s *Service) copyRules(tx *store.Tx, userID, oldID, newID string) error {
	u, err := s.userRules(tx, userID)
	if err != nil {
		return err
	}
	type put struct {
		kind string
		rule pushrules.Rule
	}
	var more []put
	for _, kind := range []string{"override", "room", "underride"} {
		rules, _ := u.rules.Rules(kind)
		for _, r := range rules {
			about := kind == "room" && r.RuleID == oldID
			conditions := slices.Clone(r.Conditions)
			for i, c := range conditions {
				if c.Kind == "event_match" && c.Key == "room_id" && c.Pattern == oldID {
					conditions[i], about = pushrules.Condition{Kind: c.Kind, Key: c.Key, Pattern: newID}, true
				}
			}
			if !about || r.Default {
				continue
			}
			r.Conditions = conditions
			if id := strings.ReplaceAll(r.RuleID, oldID, newID); id != r.RuleID {
				r.RuleID = id
			} else {
				r.RuleID += "_" + newID
			}
			if _, err := u.rules.Get(kind, r.RuleID); err != nil {
				more = append(more, put{kind, r})
			}
		}
	}
	if len(more) == 0 {
		return nil
	}
	return s.changeRulesIn(tx, userID, func(rules *pushrules.Ruleset) error {
		for _, p := range slices.Backward(more) { // the newest stands first
			if err := rules.Put(p.kind, p.rule, "", ""); err != nil {
				return err
			}
			if err := rules.SetEnabled(p.kind, p.rule.RuleID, p.rule.Enabled); err != nil {
				return err
			}
		}
		return nil
	})
}
