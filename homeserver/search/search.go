// Package search finds messages, room names and topics by their words, as far as
// the searcher may see them.
//
// Invariants:
//   - The index is kept up beside the sending of messages, not by it; a search first
//     brings it up to what is committed, so that it misses nothing that was answered.
//   - What is redacted leaves the index in the transaction of the redaction.
//   - A result passes the history visibility of its room for its searcher, and an
//     edited message is found by the text that the searcher sees last.
//   - Nothing that is typed as a search is an error, but its length.
package search

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/timeline"
	"holdfast/store"
)

// Options of New.
type Options struct {
	DB       *store.DB
	Rooms    *rooms.Rooms
	Timeline *timeline.Timeline
	Log      *slog.Logger
}

// Service searches. Its methods are safe for concurrent use.
type Service struct {
	o    Options
	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}

	catching  sync.Mutex // held while the index is written
	low, high int64      // what it holds; with catching

	purges atomic.Int64 // how often events were deleted; changed in the writer

	mu    sync.Mutex
	queue []*rooms.Event // all that was stored for the index after position from
	from  int64
}

// New makes a Service. Stored must be told of every event from here on.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, wake: make(chan struct{}, 1), from: o.DB.Pos()}
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	return []route.Route{{Op: "search", Auth: route.User, Limit: route.Reads, Handle: route.JSON(s.search),
		Pattern: "POST /_matrix/client/v3/search", Aliases: []string{"/_matrix/client/r0/search"}}}
}

type request struct {
	Categories *struct {
		RoomEvents *criteria `json:"room_events"`
	} `json:"search_categories"`
}

type criteria struct {
	Term    *string         `json:"search_term"`
	Keys    []string        `json:"keys"`
	Filter  json.RawMessage `json:"filter"`
	OrderBy string          `json:"order_by"`
	Context *struct {
		Before  *int `json:"before_limit"`
		After   *int `json:"after_limit"`
		Profile bool `json:"include_profile"`
	} `json:"event_context"`
	State     bool `json:"include_state"`
	Groupings struct {
		By []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

const (
	groupRoom   = "room_id"
	groupSender = "sender"
)

// Bounds of a search.
const (
	maxTerm        = 4096 // bytes
	maxParts       = 64   // words and phrases
	defaultLimit   = 10
	maxLimit       = 100
	defaultContext = 5
	maxContext     = 20
	maxHits        = 10_000 // texts looked at: of more than these the best or newest are found
)

// query is a request that was checked.
type query struct {
	text          store.TextQuery
	keys          []string
	filter        *timeline.RoomEventFilter
	recent        bool
	context       bool
	before, after int
	profile       bool
	state         bool
	groups        []string
	limit         int
	at            token
}

func (in criteria) check(batch string) (q query, err error) {
	if in.Term == nil {
		return q, mx.Errorf(mx.MissingParam, "A search needs a search_term.")
	}
	if len(*in.Term) > maxTerm {
		return q, mx.Errorf(mx.InvalidParam, "The search_term is longer than %d bytes.", maxTerm)
	}
	if q.text = store.ParseQuery(*in.Term); q.text.Parts > maxParts {
		return q, mx.Errorf(mx.InvalidParam, "The search_term has more than %d words.", maxParts)
	}
	for _, k := range in.Keys {
		key, ok := strings.CutPrefix(k, "content.")
		if !ok || typeOf[key] == "" {
			return q, mx.Errorf(mx.InvalidParam, "The keys are content.body, content.name and content.topic.")
		}
		q.keys = append(q.keys, key)
	}
	if len(in.Keys) == 0 {
		q.keys = []string{"body", "name", "topic"}
	}
	if len(q.keys) > 3 {
		return q, mx.Errorf(mx.InvalidParam, "A key is named twice.")
	}
	filter := string(in.Filter)
	if filter == "null" {
		filter = ""
	}
	if q.filter, err = timeline.ParseEventFilter(filter); err != nil {
		return q, err
	}
	q.limit = q.filter.LimitOr(defaultLimit, maxLimit)
	switch in.OrderBy {
	case "", "rank":
	case "recent":
		q.recent = true
	default:
		return q, mx.Errorf(mx.InvalidParam, "order_by is recent or rank.")
	}
	if c := in.Context; c != nil {
		q.context, q.profile = true, c.Profile
		q.before, q.after = defaultContext, defaultContext
		if c.Before != nil {
			q.before = *c.Before
		}
		if c.After != nil {
			q.after = *c.After
		}
		if q.before < 0 || q.after < 0 {
			return q, mx.Errorf(mx.InvalidParam, "before_limit and after_limit are 0 or more.")
		}
		q.before, q.after = min(q.before, maxContext), min(q.after, maxContext)
	}
	q.state = in.State
	for _, g := range in.Groupings.By {
		if g.Key != groupRoom && g.Key != groupSender {
			return q, mx.Errorf(mx.InvalidParam, "Results are grouped by room_id or sender.")
		}
		q.groups = append(q.groups, g.Key)
	}
	if batch != "" {
		q.at, err = parseToken(batch)
	}
	return q, err
}

type response struct {
	Categories map[string]any `json:"search_categories"`
}

type results struct {
	Count      int                          `json:"count"`
	Highlights []string                     `json:"highlights"`
	Results    []result                     `json:"results"`
	State      map[string][]json.RawMessage `json:"state,omitempty"`
	Groups     map[string]map[string]*group `json:"groups,omitempty"`
	Next       string                       `json:"next_batch,omitempty"`
}

type result struct {
	Rank    float64         `json:"rank"`
	Result  json.RawMessage `json:"result"`
	Context *eventContext   `json:"context,omitempty"`
}

type eventContext struct {
	Start    string             `json:"start"`
	End      string             `json:"end"`
	Before   []json.RawMessage  `json:"events_before"`
	After    []json.RawMessage  `json:"events_after"`
	Profiles map[string]profile `json:"profile_info,omitempty"`
}

type profile struct {
	DisplayName string `json:"displayname,omitempty"`
	AvatarURL   string `json:"avatar_url,omitempty"`
}

type group struct {
	Next    string   `json:"next_batch,omitempty"`
	Order   int      `json:"order"`
	Results []string `json:"results"`
}

// Spec: cs#post_matrixclientv3search
func (s *Service) search(ctx context.Context, r *route.Request, in request) (out response, err error) {
	if in.Categories == nil {
		return out, mx.Errorf(mx.MissingParam, "A search needs search_categories.")
	}
	out.Categories = map[string]any{}
	if in.Categories.RoomEvents == nil {
		return out, nil
	}
	q, err := in.Categories.RoomEvents.check(r.Query("next_batch"))
	if err != nil {
		return out, err
	}
	found := &results{Highlights: []string{}, Results: []result{}}
	out.Categories["room_events"] = found
	if q.text.Parts == 0 {
		return out, nil
	}
	if err := s.catchUp(ctx); err != nil {
		return out, err
	}
	to := s.o.DB.Pos()
	if q.at.UpTo == 0 {
		q.at.UpTo = to
	}
	return out, s.o.DB.Read(ctx, func(sq store.Querier) error {
		w := &work{s: s, q: sq, query: q, reader: timeline.Reader{UserID: r.UserID, DeviceID: r.DeviceID, To: to}, pages: map[int64]*timeline.Page{}}
		return w.run(found)
	})
}

// work is one search.
type work struct {
	s      *Service
	q      store.Querier
	query  query
	reader timeline.Reader
	ids    map[int64]string         // rooms that are searched
	pages  map[int64]*timeline.Page // nil: nothing of the room is found
}

func (w *work) run(out *results) error {
	in, err := w.rooms()
	if err != nil || len(in) == 0 {
		return err
	}
	hits, err := find(w.q, w.query.text.Match, in, w.query.keys, w.query.at.UpTo, w.query.recent, maxHits)
	if err != nil {
		return err
	}
	var seen []hit
	for _, h := range hits {
		ok, err := w.sees(h)
		if err != nil {
			return err
		}
		if ok {
			seen = append(seen, h)
		}
	}
	out.Count = len(seen)
	start := min(w.query.at.Skip, len(seen))
	if w.query.recent {
		start = 0
		for w.query.at.After > 0 && start < len(seen) && seen[start].event >= w.query.at.After {
			start++
		}
	}
	end := min(start+w.query.limit, len(seen))
	page := seen[start:end]
	if end < len(seen) {
		out.Next = w.token(seen[:end], w.query.at.Key, w.query.at.Value).String()
	}
	var at []int64
	for _, h := range page {
		if err := w.add(out, h); err != nil {
			return err
		}
		at = append(at, h.pos)
	}
	if err := w.group(out, seen, start, end); err != nil {
		return err
	}
	words, err := marks(w.q, w.query.text.Match, at)
	if err != nil {
		return err
	}
	had := map[string]bool{}
	for _, word := range words {
		if l := strings.ToLower(word); !had[l] {
			had[l] = true
			out.Highlights = append(out.Highlights, word)
		}
	}
	return nil
}

// token is where to go on after the hits given, of all or of one group.
func (w *work) token(done []hit, key, value string) token {
	t := token{UpTo: w.query.at.UpTo, Key: key, Value: value}
	if w.query.recent {
		t.After = done[len(done)-1].event
		return t
	}
	for _, h := range done {
		if key == "" || w.value(h, key) == value {
			t.Skip++
		}
	}
	return t
}

// value is what a hit is grouped by.
func (w *work) value(h hit, key string) string {
	if key == groupRoom {
		return w.ids[h.room]
	}
	return h.sender
}

// rooms are those that the searcher is or was in, and that the filter picks.
func (w *work) rooms() ([]int64, error) {
	list, err := w.s.o.Rooms.Rooms(w.q, w.reader.UserID)
	if err != nil {
		return nil, err
	}
	w.ids = map[int64]string{}
	var in []int64
	for _, m := range list {
		if m.Forgotten && m.Membership != mx.Join || !w.query.filter.PassRoom(m.RoomID) || w.query.at.Key == groupRoom && w.query.at.Value != m.RoomID {
			continue
		}
		room, err := w.s.o.Rooms.Number(w.q, m.RoomID)
		if err != nil {
			return nil, err
		}
		w.ids[room] = m.RoomID
		in = append(in, room)
	}
	return in, nil
}

// page opens a room; nil: nothing in it is found. Spec: cs#search-categories
// ("The search will not include rooms that are end to end encrypted")
func (w *work) page(room int64) (*timeline.Page, error) {
	if p, ok := w.pages[room]; ok {
		return p, nil
	}
	p, err := w.s.o.Timeline.Enter(w.q, w.ids[room], w.reader)
	var refused *mx.Error
	if errors.As(err, &refused) {
		p, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if p != nil {
		switch _, err := w.s.o.Rooms.State(w.q, w.ids[room], mx.RoomEncryption, ""); {
		case err == nil:
			p = nil
		case !errors.Is(err, store.ErrNotFound):
			return nil, err
		}
	}
	w.pages[room] = p
	return p, nil
}

// sees reports whether a hit is a result: the searcher sees the event and the text
// by which it is found, which is the last one, and the filter lets it through.
func (w *work) sees(h hit) (bool, error) {
	if w.query.at.Key == groupSender && h.sender != w.query.at.Value || !w.query.filter.Pass(typeOf[h.key], h.sender) {
		return false, nil
	}
	p, err := w.page(h.room)
	if err != nil || p == nil {
		return false, err
	}
	if v := p.View(); !v.SeesAt(h.event) || !v.SeesAt(h.pos) || h.key == "body" && p.Ignores(h.sender) {
		return false, nil
	}
	f := w.query.filter
	if !h.edited && !p.MayHide(h.sender) && f.ContainsURL == nil && f.RelatedByRelTypes == nil && f.RelatedBySenders == nil {
		return true, nil
	}
	e, err := w.s.o.Rooms.EventAt(w.q, h.event)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if hidden, err := p.Hides(e); hidden || err != nil {
		return false, err
	}
	if h.edited {
		edit, err := p.LastEdit(e)
		if err != nil || e.RedactedBy != "" || edit == nil && h.pos != h.event || edit != nil && edit.Pos != h.pos {
			return false, err
		}
	}
	return p.Passes(f)(e)
}

// add puts a hit among the results.
func (w *work) add(out *results, h hit) error {
	p := w.pages[h.room]
	e, err := w.s.o.Rooms.EventAt(w.q, h.event)
	if err != nil {
		return err
	}
	r := result{Rank: h.rank}
	if r.Result, err = p.Raw(e); err != nil {
		return err
	}
	if w.query.context {
		if r.Context, err = w.context(p, e); err != nil {
			return err
		}
	}
	out.Results = append(out.Results, r)
	if id := w.ids[h.room]; w.query.state && out.State[id] == nil {
		if out.State == nil {
			out.State = map[string][]json.RawMessage{}
		}
		state, err := p.State(nil)
		if err != nil {
			return err
		}
		if out.State[id], err = p.List(state); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) context(p *timeline.Page, e *rooms.Event) (*eventContext, error) {
	before, after, start, end, err := p.Around(e, w.query.before, w.query.after, &timeline.RoomEventFilter{})
	if err != nil {
		return nil, err
	}
	c := &eventContext{Start: start.String(), End: end.String()}
	if c.Before, err = p.List(before); err != nil {
		return nil, err
	}
	if c.After, err = p.List(after); err != nil {
		return nil, err
	}
	if !w.query.profile {
		return c, nil
	}
	// As they were called when they wrote it.
	c.Profiles = map[string]profile{}
	for _, x := range append(append([]*rooms.Event{e}, before...), after...) {
		if _, ok := c.Profiles[x.Sender]; ok {
			continue
		}
		m, err := w.s.o.Rooms.StateEventAt(w.q, e.RoomID, mx.RoomMember, x.Sender, x.Pos)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		c.Profiles[x.Sender] = profile{m.ContentString("displayname"), m.ContentString("avatar_url")}
	}
	return c, nil
}

// group sorts the results from start to end into the groups that were asked for.
func (w *work) group(out *results, seen []hit, start, end int) error {
	for _, key := range w.query.groups {
		if out.Groups == nil {
			out.Groups = map[string]map[string]*group{}
		}
		groups := map[string]*group{}
		out.Groups[key] = groups
		for _, h := range seen[start:end] {
			e, err := w.s.o.Rooms.EventAt(w.q, h.event)
			if err != nil {
				return err
			}
			v := w.value(h, key)
			if groups[v] == nil {
				groups[v] = &group{Order: len(groups) + 1}
			}
			groups[v].Results = append(groups[v].Results, e.ID)
		}
		for _, h := range seen[end:] {
			v := w.value(h, key)
			if g := groups[v]; g != nil && g.Next == "" && (w.query.at.Key == "" || w.query.at.Key == key) {
				g.Next = w.token(seen[:end], key, v).String()
			}
		}
	}
	return nil
}
