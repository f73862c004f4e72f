package sliding

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// Bounds of a request. They bound what one request costs and what a connection
// remembers of it.
const (
	maxLists         = 100
	maxSubscriptions = 100  // of the stable form; what is more is refused. Source: MSC4186
	maxUnstableSubs  = 1000 // clients of the unstable form were told of no bound
	maxRanges        = 10   // of one list
	maxElements      = 300  // of one required_state
	maxNames         = 1000 // in one filter, or rooms in one extension
	maxTimeline      = 100
	maxName          = 255 // bytes of conn_id, and of the name of a list
	maxTimeout       = 5 * time.Minute
)

// request is what both forms of the API ask.
type request struct {
	connID, pos, txnID string
	timeout            time.Duration
	presence           string
	lists              []list // by name
	subs               map[string]*config
	ext                extensions
	stable             bool
	shape              string // equal for requests that ask for the same: all but pos, timeout and presence
}

// list is one window on the rooms.
type list struct {
	name   string
	ranges [][2]int // inclusive
	config config
	filter filter
}

// in reports whether the window shows the room with an index.
func (l *list) in(i int) bool {
	for _, r := range l.ranges {
		if i >= r[0] && i <= r[1] {
			return true
		}
	}
	return false
}

// config says what is wanted of a room.
type config struct {
	limit int
	state []*stateFilter // any of them
	text  string         // equal for equal state
}

// stateFilter picks state events.
type stateFilter struct {
	Include []element `json:"include,omitempty"`
	Exclude []element `json:"exclude,omitempty"`
	Lazy    bool      `json:"lazy_members,omitempty"`
}

// element names state events; nil stands for all.
type element struct {
	Type *string `json:"type,omitempty"`
	Key  *string `json:"state_key,omitempty"`
}

func (e element) matches(typ, key string) bool {
	return (e.Type == nil || *e.Type == typ) && (e.Key == nil || *e.Key == key)
}

// picks reports whether a state event is wanted. With lazily loaded members a
// member event is picked only by its own key.
func (f *stateFilter) picks(typ, key string) bool {
	yes := false
	for _, e := range f.Include {
		if e.matches(typ, key) && (!f.Lazy || typ != mx.RoomMember || e.Key != nil) {
			yes = true
			break
		}
	}
	if !yes {
		return false
	}
	for _, e := range f.Exclude {
		if e.matches(typ, key) {
			return false
		}
	}
	return true
}

// all reports whether it picks every event of a type.
func (f *stateFilter) all(typ string) bool {
	for _, e := range f.Include {
		if e.Key == nil && (e.Type == nil || *e.Type == typ) && !(f.Lazy && typ == mx.RoomMember) {
			for _, x := range f.Exclude {
				if x.Type == nil || *x.Type == typ {
					return false
				}
			}
			return true
		}
	}
	return false
}

// picks reports whether any of the filters picks a state event.
func (c *config) picks(typ, key string) bool {
	for _, f := range c.state {
		if f.picks(typ, key) {
			return true
		}
	}
	return false
}

// lazy reports whether members are loaded as they are needed.
// Source: MSC4186, Combining room configs.
func (c *config) lazy() bool {
	lazy := false
	for _, f := range c.state {
		if f.all(mx.RoomMember) {
			return false
		}
		lazy = lazy || f.Lazy
	}
	return lazy
}

// wildcards reports whether more than single pieces of state are asked for.
func (c *config) wildcards() bool {
	for _, f := range c.state {
		for _, e := range f.Include {
			if e.Type == nil || e.Key == nil {
				return true
			}
		}
	}
	return false
}

// filter picks the rooms of a list. What is empty picks all.
type filter struct {
	DM           *bool     `json:"is_dm"`
	Spaces       []string  `json:"spaces"`
	Encrypted    *bool     `json:"is_encrypted"`
	Invited      *bool     `json:"is_invited"`
	Invite       *bool     `json:"is_invite"` // the unstable name
	RoomTypes    []*string `json:"room_types"`
	NotRoomTypes []*string `json:"not_room_types"`
	Tags         []string  `json:"tags"`
	NotTags      []string  `json:"not_tags"`
}

// extensions are what is asked for beside rooms.
type extensions struct {
	ToDevice *struct {
		Enabled bool   `json:"enabled"`
		Since   string `json:"since"`
		Limit   *int   `json:"limit"`
	} `json:"to_device"`
	E2EE    *struct{ Enabled bool } `json:"e2ee"`
	Data    *roomExtension          `json:"account_data"`
	Receipt *roomExtension          `json:"receipts"`
	Typing  *roomExtension          `json:"typing"`
	// Threads is MSC4308: no specification has it yet, in either form of the API.
	Threads *struct {
		Enabled bool   `json:"enabled"`
		Limit   *int64 `json:"limit"`
	} `json:"io.element.msc4308.thread_subscriptions"`
}

// roomExtension is asked for rooms of some lists and subscriptions: of all, where
// these are not named. Source: MSC3959
type roomExtension struct {
	Enabled bool      `json:"enabled"`
	Lists   *[]string `json:"lists"`
	Rooms   *[]string `json:"rooms"`
}

func (e *roomExtension) on() bool { return e != nil && e.Enabled }

// has reports whether the extension is wanted for a room that is subscribed to or
// is shown by lists.
func (e *roomExtension) has(roomID string, subscribed bool, lists []string) bool {
	if e.Lists == nil && e.Rooms == nil {
		return true
	}
	pick := func(names *[]string, name string) bool {
		return names == nil || slices.Contains(*names, "*") || slices.Contains(*names, name)
	}
	for _, l := range lists {
		if pick(e.Lists, l) {
			return true
		}
	}
	if e.Rooms != nil && slices.Contains(*e.Rooms, roomID) {
		return true
	}
	return subscribed && pick(e.Rooms, roomID)
}

func bad(format string, args ...any) error { return mx.Errorf(mx.InvalidParam, format, args...) }

// stateRequest is required_state in either form.
type stateRequest struct {
	stable bool
	filter stateFilter
}

func (s *stateRequest) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		s.stable = true
		return json.Unmarshal(b, &s.filter)
	}
	var pairs [][]string
	if err := json.Unmarshal(b, &pairs); err != nil {
		return err
	}
	for _, p := range pairs {
		if len(p) != 2 {
			return mx.Errorf(mx.BadJSON, "An element of required_state is an event type and a state key.")
		}
		e := element{&p[0], &p[1]}
		switch {
		case p[1] == "$LAZY" && p[0] == mx.RoomMember:
			s.filter.Lazy = true
			continue
		case p[1] == "*":
			e.Key = nil
		}
		if p[0] == "*" {
			e.Type = nil
		}
		s.filter.Include = append(s.filter.Include, e)
	}
	return nil
}

// wire is a request's body in either form.
type wire struct {
	ConnID   string              `json:"conn_id"`
	TxnID    string              `json:"txn_id"`
	Pos      *string             `json:"pos"`
	Timeout  *int64              `json:"timeout"`
	Presence *string             `json:"set_presence"`
	Lists    map[string]wireList `json:"lists"`
	Subs     map[string]wireRoom `json:"room_subscriptions"`
	Ext      extensions          `json:"extensions"`
}

type wireRoom struct {
	Limit *int64        `json:"timeline_limit"`
	State *stateRequest `json:"required_state"`
}

type wireList struct {
	wireRoom
	Range  []int64   `json:"range"`
	Ranges [][]int64 `json:"ranges"`
	Filter *filter   `json:"filters"`
}

// parse reads and checks a request. Errors: InvalidParam, BadJSON, MissingParam.
func parse(r *route.Request, in wire, stable bool) (*request, error) {
	q := &request{connID: in.ConnID, txnID: in.TxnID, ext: in.Ext, stable: stable, subs: map[string]*config{}}
	timeout := int64(0)
	if stable {
		if in.Pos != nil {
			q.pos = *in.Pos
		}
		if in.Timeout != nil {
			timeout = *in.Timeout
		}
		if in.Presence != nil {
			q.presence = *in.Presence
		}
	} else {
		q.pos, q.presence = r.Query("pos"), r.Query("set_presence")
		if t := r.Query("timeout"); t != "" {
			ms, err := strconv.ParseInt(t, 10, 64)
			if err != nil {
				return nil, bad("The timeout must be a number of milliseconds.")
			}
			timeout = ms
		}
	}
	if timeout < 0 {
		return nil, bad("The timeout must be a number of milliseconds.")
	}
	q.timeout = time.Duration(min(timeout, int64(maxTimeout/time.Millisecond))) * time.Millisecond
	switch q.presence {
	case "", "online", "offline", "unavailable":
	default:
		return nil, bad("set_presence is online, unavailable or offline.")
	}
	most := maxUnstableSubs
	if stable {
		most = maxSubscriptions
	}
	switch {
	case len(q.connID) > maxName:
		return nil, bad("The conn_id is longer than %d bytes.", maxName)
	case len(q.txnID) > maxName:
		return nil, bad("The txn_id is longer than %d bytes.", maxName)
	case len(in.Lists) > maxLists:
		return nil, bad("There are more than %d lists.", maxLists)
	case len(in.Subs) > most:
		return nil, bad("There are more than %d room subscriptions.", most)
	}
	me := r.UserID
	for name, w := range in.Lists {
		if name == "" || len(name) > maxName || stable && strings.Trim(name, opaque) != "" {
			return nil, bad("%.40q is no name for a list.", name)
		}
		l := list{name: name}
		var err error
		if l.config, err = w.config(me, stable); err != nil {
			return nil, err
		}
		if l.ranges, err = w.window(stable); err != nil {
			return nil, err
		}
		if w.Filter != nil {
			if l.filter = *w.Filter; l.filter.Invited == nil {
				l.filter.Invited = l.filter.Invite
			}
			f := &l.filter
			if len(f.Spaces)+len(f.RoomTypes)+len(f.NotRoomTypes)+len(f.Tags)+len(f.NotTags) > maxNames {
				return nil, bad("The filters of the list %q name more than %d things.", name, maxNames)
			}
		}
		q.lists = append(q.lists, l)
	}
	slices.SortFunc(q.lists, func(a, b list) int { return strings.Compare(a.name, b.name) })
	for id, w := range in.Subs {
		c, err := w.config(me, stable)
		if err != nil {
			return nil, err
		}
		q.subs[id] = &c
	}
	for _, e := range []*roomExtension{q.ext.Data, q.ext.Receipt, q.ext.Typing} {
		if e != nil && (e.Lists != nil && len(*e.Lists) > maxNames || e.Rooms != nil && len(*e.Rooms) > maxNames) {
			return nil, bad("An extension names more than %d lists or rooms.", maxNames)
		}
	}
	if t := q.ext.Threads; t != nil && t.Limit != nil && *t.Limit < 1 {
		return nil, bad("The limit of thread subscriptions must be a number above 0.")
	}
	in.Pos, in.Timeout, in.Presence, in.TxnID = nil, nil, nil, ""
	if in.Ext.ToDevice != nil { // where the messages begin is not what they are
		d := *in.Ext.ToDevice
		d.Since = ""
		in.Ext.ToDevice = &d
	}
	shape, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	q.shape = digest(string(shape))
	return q, nil
}

// opaque are the characters of opaque identifiers. Spec: appendices#opaque-identifiers
const opaque = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"

// MarshalJSON keeps the two forms apart in a request's shape.
func (s stateRequest) MarshalJSON() ([]byte, error) { return json.Marshal(s.filter) }

func (w wireRoom) config(me string, stable bool) (config, error) {
	c := config{}
	if w.Limit == nil && stable {
		return c, mx.Errorf(mx.MissingParam, "A list and a subscription need a timeline_limit.")
	}
	if w.Limit != nil {
		if *w.Limit < 0 {
			return c, bad("A timeline_limit must not be negative.")
		}
		c.limit = int(min(*w.Limit, maxTimeline))
	}
	c.text = "[]"
	if w.State == nil {
		if stable {
			return c, mx.Errorf(mx.MissingParam, "A list and a subscription need required_state.")
		}
		return c, nil
	}
	f := w.State.filter
	if len(f.Include)+len(f.Exclude) > 0 && w.State.stable != stable {
		return c, mx.Errorf(mx.BadJSON, "The required_state has the form of another version of this API.")
	}
	if len(f.Include)+len(f.Exclude) > maxElements {
		return c, bad("A required_state has more than %d elements.", maxElements)
	}
	if !stable {
		f.Include = slices.Clone(f.Include)
		for i, e := range f.Include {
			if e.Key != nil && *e.Key == "$ME" {
				f.Include[i].Key = &me
			}
		}
	}
	c.state = []*stateFilter{&f}
	return merge([]*config{&c}), nil
}

// window reads the range of a list: of the stable form one or none, which is all;
// of the unstable form any number.
func (w wireList) window(stable bool) ([][2]int, error) {
	pairs := w.Ranges
	if w.Range != nil {
		pairs = append(pairs, w.Range)
	}
	if len(pairs) == 0 {
		if stable {
			return [][2]int{{0, math.MaxInt}}, nil
		}
		return nil, nil
	}
	if len(pairs) > maxRanges {
		return nil, bad("A list has more than %d ranges.", maxRanges)
	}
	var out [][2]int
	for _, p := range pairs {
		if len(p) != 2 || p[0] < 0 || p[1] < p[0] {
			return nil, bad("A range is two numbers, from 0 on, of which the second is not the smaller.")
		}
		out = append(out, [2]int{int(p[0]), int(p[1])})
	}
	return out, nil
}

// merge is the superset of what several rules want of a room.
// Source: MSC4186, Combining room configs.
func merge(configs []*config) (c config) {
	texts := map[string]*stateFilter{}
	for _, o := range configs {
		c.limit = max(c.limit, o.limit)
		for _, f := range o.state {
			b, err := json.Marshal(f)
			if err != nil {
				continue // strings and bools: it cannot be
			}
			texts[string(b)] = f
		}
	}
	keys := slices.Sorted(maps.Keys(texts))
	for _, k := range keys {
		c.state = append(c.state, texts[k])
	}
	c.text = "[" + strings.Join(keys, ",") + "]"
	return c
}

// parseConfig reads the text of a config. What it cannot read wants nothing.
func parseConfig(text string) *config {
	c := &config{text: text}
	if json.Unmarshal([]byte(text), &c.state) != nil {
		c.state = nil
	}
	return c
}
