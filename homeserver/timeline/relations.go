package timeline

import (
	"context"
	"encoding/json"
	"errors"
	"sort"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/store"
)

type relationsResponse struct {
	Chunk []json.RawMessage `json:"chunk"`
	Next  string            `json:"next_batch,omitempty"`
	Prev  string            `json:"prev_batch,omitempty"`
	Depth int               `json:"recursion_depth,omitempty"`
}

const (
	maxRelations = 100
	maxRecursion = 3
)

// relations lists what relates to an event, and with recurse what relates to that.
// Spec: cs#get_matrixclientv1roomsroomidrelationseventid
func (t *Timeline) relations(ctx context.Context, r *route.Request) (out relationsResponse, err error) {
	limit, err := limitOf(r, nil, 50)
	if err != nil {
		return out, err
	}
	limit = max(1, min(limit, maxRelations))
	if d := r.Query("dir"); d != "" && d != "f" && d != "b" {
		return out, mx.Errorf(mx.InvalidParam, "dir is b for back or f for forward.")
	}
	forward := r.Query("dir") == "f"
	recurse, err := r.Bool("recurse")
	if err == nil && !recurse {
		recurse, err = r.Bool("org.matrix.msc3981.recurse")
	}
	if err != nil {
		return out, err
	}
	out.Chunk = []json.RawMessage{}
	err = t.read(ctx, r, func(p *Page) error {
		parent, err := p.find(r.Param("eventID"))
		if err != nil {
			return err
		}
		low, high := int64(0), p.reader.To
		if forward {
			if low, err = tokenOr(r, "from", 0); err == nil {
				high, err = tokenOr(r, "to", high)
			}
		} else {
			if high, err = tokenOr(r, "from", high); err == nil {
				low, err = tokenOr(r, "to", 0)
			}
		}
		if err != nil {
			return err
		}
		high = min(high, p.reader.To)
		var found []*rooms.Event
		if recurse {
			out.Depth = maxRecursion
			found, err = p.descend(parent, r.Param("relType"), r.Param("eventType"), low, high, forward)
		} else {
			found, err = p.t.o.Rooms.Relations(p.q, rooms.Relation{EventID: parent.ID, RelType: r.Param("relType"), Type: r.Param("eventType"),
				After: low, UpTo: high, Limit: limit + 1, OldestFirst: forward})
		}
		if err != nil {
			return err
		}
		more := len(found) > limit
		if more {
			found = found[:limit]
			last := found[limit-1].Pos
			if !forward {
				last--
			}
			out.Next = At(last).String()
		}
		if from := r.Query("from"); from != "" {
			out.Prev = from
		}
		var seen []*rooms.Event
		for _, e := range found {
			if e.RoomID == p.room && p.Sees(e) {
				seen = append(seen, e)
			}
		}
		out.Chunk, err = p.List(seen)
		return err
	})
	return out, hidden(err)
}

// descend gathers relations of relations. Spec: cs#get_matrixclientv1roomsroomidrelationseventid (recurse)
func (p *Page) descend(parent *rooms.Event, relType, typ string, low, high int64, forward bool) ([]*rooms.Event, error) {
	level := []string{parent.ID}
	seen := map[string]bool{parent.ID: true}
	var out []*rooms.Event
	for depth := 0; depth < maxRecursion && len(level) > 0 && len(seen) < maxLimit; depth++ {
		var next []string
		for _, id := range level {
			list, err := p.t.o.Rooms.Relations(p.q, rooms.Relation{EventID: id, UpTo: p.reader.To, Limit: maxLimit})
			if err != nil {
				return nil, err
			}
			for _, e := range list {
				if seen[e.ID] {
					continue
				}
				seen[e.ID] = true
				next = append(next, e.ID)
				rel, _ := e.Relation()
				if e.Pos > low && e.Pos <= high && (relType == "" || rel == relType) && (typ == "" || e.Type == typ) {
					out = append(out, e)
				}
			}
		}
		level = next
	}
	sortEvents(out, forward)
	return out, nil
}

func sortEvents(list []*rooms.Event, oldestFirst bool) {
	sort.Slice(list, func(i, j int) bool { return (list[i].Pos < list[j].Pos) == oldestFirst && list[i].Pos != list[j].Pos })
}

// Spec: cs#get_matrixclientv1roomsroomidthreads
func (t *Timeline) threads(ctx context.Context, r *route.Request) (out relationsResponse, err error) {
	limit, err := limitOf(r, nil, 20)
	if err != nil {
		return out, err
	}
	limit = max(1, min(limit, maxRelations))
	include := r.Query("include")
	if include != "" && include != "all" && include != "participated" {
		return out, mx.Errorf(mx.InvalidParam, "include is all or participated.")
	}
	out.Chunk = []json.RawMessage{}
	err = t.read(ctx, r, func(p *Page) error {
		before := p.reader.To + 1
		if s := r.Query("from"); s != "" {
			tok, err := ParseToken(strings.TrimSpace(s))
			if err != nil {
				return err
			}
			before = tok.Pos + 1
		}
		roots, at, err := p.threadRoots(include == "participated", before, limit+1)
		if err != nil {
			return err
		}
		if len(roots) > limit {
			roots = roots[:limit]
			out.Next = At(at[limit-1] - 1).String()
		}
		for _, id := range roots {
			e, err := t.o.Rooms.EventByID(p.q, id)
			if errors.Is(err, store.ErrNotFound) || err == nil && (e.RoomID != p.room || !p.view.Sees(e)) {
				continue
			}
			if err != nil {
				return err
			}
			reader := p.reader
			reader.Bare = p.ignore[e.Sender]
			raw, err := t.Append(nil, p.q, e, reader)
			if err != nil {
				return err
			}
			out.Chunk = append(out.Chunk, raw)
		}
		return nil
	})
	return out, err
}

// maxThreads is how many threads of a room are looked at, the last active ones, where
// the reader sees not all of them as they are.
const maxThreads = 1000

// threadRoots lists the roots of threads by the last event that the reader sees in
// each, those before a position, with that event's position.
func (p *Page) threadRoots(mine bool, before int64, limit int) (roots []string, at []int64, err error) {
	list := p.t.o.Rooms.Threads
	if len(p.ignore) == 0 && p.view.SeesSince(0) {
		return list(p.q, p.room, p.reader.UserID, mine, before, limit)
	}
	all, _, err := list(p.q, p.room, p.reader.UserID, mine, p.reader.To+1, maxThreads)
	if err != nil {
		return nil, nil, err
	}
	type thread struct {
		root   string
		latest int64
	}
	var seen []thread
	for _, id := range all {
		e, err := p.t.o.Rooms.EventByID(p.q, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && (e.RoomID != p.room || !p.view.Sees(e)) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		_, latest, err := p.t.thread(p.q, e, p.reader, p.ignore)
		if err != nil {
			return nil, nil, err
		}
		if latest != nil && latest.Pos < before {
			seen = append(seen, thread{id, latest.Pos})
		}
	}
	sort.Slice(seen, func(i, j int) bool { return seen[i].latest > seen[j].latest })
	for _, th := range seen[:min(limit, len(seen))] {
		roots, at = append(roots, th.root), append(at, th.latest)
	}
	return roots, at, nil
}
