package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

type hierarchyRoom struct {
	Summary
	Children []json.RawMessage `json:"children_state"`
}

const (
	maxHierarchy      = 50 // rooms in one answer
	maxHierarchyRooms = 1000
)

// getHierarchy walks down a space, depth first, in the order that space children
// ask for. Its token is the number of rooms given so far.
// Spec: cs#get_matrixclientv1roomsroomidhierarchy
func (r *Rooms) getHierarchy(ctx context.Context, q *route.Request) (any, error) {
	// An administrator of the server sees every room that there is.
	all := q.Route != nil && q.Route.Auth == route.Admin
	limit, err := q.Int("limit", maxHierarchy)
	if err != nil {
		return nil, err
	}
	limit = max(1, min(limit, maxHierarchy))
	depth := -1
	if q.QueryValues().Has("max_depth") {
		if depth, err = q.Int("max_depth", 0); err != nil {
			return nil, err
		}
	}
	suggested, err := q.Bool("suggested_only")
	if err != nil {
		return nil, err
	}
	// A token goes on with the same walk only. Spec: neither may change between pages.
	walk := fmt.Sprintf("%d_%t_", depth, suggested)
	from := 0
	if s := q.Query("from"); s != "" {
		if from, err = strconv.Atoi(strings.TrimPrefix(s, walk)); err != nil || from < 0 || !strings.HasPrefix(s, walk) {
			return nil, mx.Errorf(mx.InvalidParam, "The from token is none that this server gave for this max_depth and suggested_only.")
		}
	}
	out := []hierarchyRoom{}
	next := ""
	err = r.db.Read(ctx, func(s store.Querier) error {
		seen, n := map[string]bool{}, 0
		type item struct {
			id    string
			depth int
		}
		stack := []item{{q.Param("roomID"), 0}}
		for len(stack) > 0 && n < maxHierarchyRooms {
			at := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if seen[at.id] {
				continue
			}
			seen[at.id] = true
			sum, err := r.SummaryOf(s, at.id)
			if err == store.ErrNotFound {
				switch {
				case n == 0 && all:
					return errNoRoom
				case n == 0:
					return mx.Errorf(mx.Forbidden, "You may not see this room.")
				}
				continue
			}
			if err != nil {
				return err
			}
			ok, err := r.mayPreview(s, sum, q.UserID)
			if err != nil {
				return err
			}
			if !ok && !all {
				if n == 0 {
					return mx.Errorf(mx.Forbidden, "You may not see this room.")
				}
				continue
			}
			room := hierarchyRoom{Summary: sum, Children: []json.RawMessage{}}
			if sum.RoomType == "m.space" {
				children, err := r.children(s, at.id, suggested)
				if err != nil {
					return err
				}
				for _, c := range children {
					b := c.AppendStripped(nil)
					b = append(b[:len(b)-1], `,"origin_server_ts":`...)
					b = strconv.AppendInt(b, c.OriginServerTS, 10)
					room.Children = append(room.Children, append(b, '}'))
				}
				if depth < 0 || at.depth < depth {
					for i := len(children) - 1; i >= 0; i-- {
						stack = append(stack, item{*children[i].StateKey, at.depth + 1})
					}
				}
			}
			if n++; n <= from {
				continue
			}
			if len(out) == limit {
				next = walk + strconv.Itoa(n-1)
				return nil
			}
			out = append(out, room)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"rooms": out}
	if next != "" {
		answer["next_batch"] = next
	}
	return answer, nil
}

// children are a space's valid child events in their order.
// Spec: cs#ordering-of-children-within-a-space
func (r *Rooms) children(q store.Querier, roomID string, suggested bool) ([]*Event, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	all, err := r.eventsOf(q, `SELECT event FROM room_state WHERE room = $1 AND type = 'm.space.child'`, nid)
	if err != nil {
		return nil, err
	}
	list := all[:0:0]
	for _, e := range all {
		if via, ok := pdu.Strings(pdu.Field(e.Content, "via")); !ok || len(via) == 0 || !mx.ValidRoomID(*e.StateKey) {
			continue
		}
		if suggested && string(pdu.Field(e.Content, "suggested")) != "true" {
			continue
		}
		list = append(list, e)
	}
	order := func(e *Event) string {
		o := e.ContentString("order")
		if len(o) > 50 {
			return ""
		}
		for i := range len(o) {
			if o[i] < 0x20 || o[i] > 0x7e {
				return ""
			}
		}
		return o
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := order(list[i]), order(list[j])
		if (a == "") != (b == "") {
			return a != ""
		}
		if a != b {
			return a < b
		}
		if list[i].OriginServerTS != list[j].OriginServerTS {
			return list[i].OriginServerTS < list[j].OriginServerTS
		}
		return *list[i].StateKey < *list[j].StateKey
	})
	return list, nil
}

// SpaceRoom is a room of a space that agrees to be one.
type SpaceRoom struct {
	RoomID string
	// Own: the room, and each space on the way to it, names the space that it is in as its
	// parent. Else its people are let in from there.
	Own bool
}

// RoomsOf lists the rooms of a space that this server has, also those of spaces in it, at
// most limit. Whoever may add rooms to a space must not decide by that about rooms of
// others: a room counts if it names the space as its parent, or lets in everybody, or
// everybody who is in the space.
func (r *Rooms) RoomsOf(q store.Querier, spaceID string, limit int) (list []SpaceRoom, err error) {
	seen := map[string]bool{spaceID: true}
	for queue := []SpaceRoom{{spaceID, true}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		create, err := r.State(q, at.RoomID, mx.RoomCreate, "")
		if err != nil || create.ContentString("type") != "m.space" {
			if err != nil && err != store.ErrNotFound {
				return nil, err
			}
			continue
		}
		children, err := r.children(q, at.RoomID, false)
		if err != nil {
			return nil, err
		}
		for _, c := range children {
			id := *c.StateKey
			if seen[id] || len(list) >= limit {
				continue
			}
			own, in, err := r.agrees(q, id, at.RoomID)
			if err != nil {
				return nil, err
			}
			if !own && !in {
				continue
			}
			seen[id] = true
			room := SpaceRoom{id, own && at.Own}
			list, queue = append(list, room), append(queue, room)
		}
	}
	return list, nil
}

// agrees reports whether a room names a space as its parent, and whether it lets its
// people in.
func (r *Rooms) agrees(q store.Querier, roomID, spaceID string) (own, in bool, err error) {
	if known, err := r.Known(q, roomID); err != nil || !known {
		return false, false, err
	}
	switch e, err := r.State(q, roomID, mx.SpaceParent, spaceID); {
	case err == nil:
		via, ok := pdu.Strings(pdu.Field(e.Content, "via"))
		own = ok && len(via) > 0
	case err != store.ErrNotFound:
		return false, false, err
	}
	e, err := r.State(q, roomID, mx.RoomJoinRules, "")
	if err == store.ErrNotFound {
		return own, false, nil
	}
	if err != nil {
		return false, false, err
	}
	var rules mx.JoinRulesContent
	if json.Unmarshal(e.Content, &rules) != nil {
		return own, false, nil
	}
	switch rules.JoinRule {
	case mx.JoinPublic:
		in = true
	case mx.JoinRestricted, mx.JoinKnockRestricted:
		for _, a := range rules.Allow {
			in = in || a.Type == "m.room_membership" && a.RoomID == spaceID
		}
	}
	return own, in, nil
}
