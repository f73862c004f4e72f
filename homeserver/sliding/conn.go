package sliding

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/timeline"
	"holdfast/store"
)

// Bounds of what is remembered. A room of a connection takes about 150 bytes in
// memory and 100 in the database: 300 kB for somebody in 2,000 rooms. All else of it,
// whatever its requests were, takes up to 1.5 MiB: the last answer, the wants, and the
// members that were sent.
const (
	maxConnections = 16  // of one device; the one that was not used for longest goes
	maxConfigs     = 100 // wants that a connection tells apart
	maxConfigBytes = 256 << 10
	maxLazy        = 5000 // members that a connection notes as sent
	maxReplay      = 256 << 10
	keepFor        = 30 * 24 * time.Hour
)

// key names a connection.
type key struct{ user, device, id string }

// sent is what a client has of a room over a connection.
type sent struct {
	At      int64 `json:"a"`           // everything up to here
	Limit   int   `json:"l,omitempty"` // so many of the last events
	Config  int   `json:"c"`           // state by this index of conn.configs; -1: not known
	DM      bool  `json:"d,omitempty"`
	Unread  int   `json:"u,omitempty"` // notifications as last told
	Loud    int   `json:"h,omitempty"` // highlights
	Partial bool  `json:"p,omitempty"` // not as a member: it begins anew with a join
	Recount bool  `json:"r,omitempty"` // what is unread changed while it was not shown
}

// member is a member event that was sent because it was needed.
type member struct{ event, answer int64 }

// saved is a connection as the database has it.
type saved struct {
	Rooms   map[string]sent  `json:"rooms"`
	Undo    map[string]*sent `json:"undo,omitempty"` // what the last answer changed: how it was; nil: not there
	Prev    int64            `json:"prev"`           // number of the answer before
	PrevPos int64            `json:"prev_pos"`
	Top     int64            `json:"top"` // highest number given: none is used twice
	Configs []string         `json:"configs"`
	Begun   map[string]bool  `json:"begun,omitempty"` // extensions whose first answer was given
	Before  map[string]bool  `json:"before,omitempty"`
}

// conn is a connection. Its fields are guarded by mu, except those that say otherwise.
type conn struct {
	key    key
	turnMu sync.Mutex
	cancel context.CancelFunc // ends the request that holds mu; guarded by turnMu
	holder int64              // number of that request; guarded by turnMu
	used   int64              // ns; guarded by Service.mu

	mu     sync.Mutex
	loaded bool
	behind bool  // what was stored may be older than what the client has
	serial int64 // tells connections of one name apart
	n      int64 // number of the answer that the client has, as far as it is known
	pos    int64 // position that it was as of
	saved
	lazy     map[string]map[string]member
	lazies   int
	dirty    bool
	gone     bool   // the device is deleted: nothing is to be stored
	replay   []byte // the last answer
	replayOf string // shape of its request
	// Of the last answer, for the next:
	shape  string
	counts []int // of the lists
	direct map[string]bool
}

// reset begins the connection anew.
func (c *conn) reset() {
	c.loaded, c.serial, c.n, c.pos = true, rand.Int64N(1<<40)+1, 0, 0
	c.saved = saved{Rooms: map[string]sent{}, Begun: map[string]bool{}}
	c.lazy, c.lazies = map[string]map[string]member{}, 0
	c.replay, c.replayOf, c.shape, c.counts, c.direct = nil, "", "", nil, nil
	c.dirty, c.behind = true, false
}

// token is how an answer is named: it begins like those of /sync, so that
// /messages and /relations take it.
func token(pos, serial, n int64) string {
	return timeline.At(pos).String() + "~" + strconv.FormatInt(serial, 36) + "." + strconv.FormatInt(n, 36)
}

// parseToken reads a token. ok is false for what this server did not make.
func parseToken(s string) (pos, serial, n int64, ok bool) {
	if len(s) > 80 {
		return 0, 0, 0, false
	}
	head, tail, two := strings.Cut(s, "~")
	a, b, three := strings.Cut(tail, ".")
	if !two || !three {
		return 0, 0, 0, false
	}
	t, err := timeline.ParseToken(head)
	if err != nil {
		return 0, 0, 0, false
	}
	serial, err1 := strconv.ParseInt(a, 36, 64)
	n, err2 := strconv.ParseInt(b, 36, 64)
	return t.Pos, serial, n, err1 == nil && err2 == nil && serial > 0 && n > 0 && token(t.Pos, serial, n) == s
}

func unknownPos() error {
	return mx.Errorf(mx.UnknownPos, "The server does not know this connection any more: begin it anew, without a pos.")
}

// advance brings the connection to where a request stands. With replay its answer
// is the last one, again.
func (c *conn) advance(r *request, dbPos int64) (replay bool, err error) {
	if r.pos == "" {
		c.reset()
		return false, nil
	}
	pos, serial, n, ok := parseToken(r.pos)
	if !ok || !c.loaded || serial != c.serial || pos > dbPos {
		return false, unknownPos()
	}
	defer func() { c.behind = c.behind && err != nil }()
	switch {
	case n == c.n:
		c.Undo = nil
	case n == c.Prev && n > 0:
		// The last answer was lost, or the client asks for something else instead.
		if c.replay != nil && c.replayOf == r.shape {
			return true, nil
		}
		c.rollBack()
	case n > c.n && c.behind:
		// The server ended before it could store what it gave. The client has at
		// least what is stored: it gets some of it again.
		c.n, c.pos, c.Undo, c.Top = n, pos, nil, max(c.Top, n)
	default:
		return false, unknownPos()
	}
	return false, nil
}

// rollBack takes the last answer back.
func (c *conn) rollBack() {
	for id, old := range c.Undo {
		if old == nil {
			delete(c.Rooms, id)
		} else {
			c.Rooms[id] = *old
		}
	}
	for _, m := range c.lazy {
		for u, s := range m {
			if s.answer > c.Prev {
				delete(m, u)
				c.lazies--
			}
		}
	}
	if c.Before != nil {
		c.Begun = c.Before
	}
	c.n, c.pos, c.Undo, c.Before = c.Prev, c.PrevPos, nil, nil
	c.shape = ""
}

// commit notes an answer as given.
func (c *conn) commit(next map[string]*sent, begun map[string]bool, pos, n int64) {
	c.Undo = make(map[string]*sent, len(next))
	for id, s := range next {
		if old, ok := c.Rooms[id]; ok {
			c.Undo[id] = &old
		} else {
			c.Undo[id] = nil
		}
		if s == nil {
			delete(c.Rooms, id)
		} else {
			c.Rooms[id] = *s
		}
	}
	c.Before, c.Begun = c.Begun, begun
	c.Prev, c.PrevPos = c.n, c.pos
	c.n, c.pos, c.Top = n, pos, n
	c.dirty = true
}

// trimConfigs begins the list of wants anew when it is long: what was sent by which is
// not known then. Between answers only: within one, indexes must stay what they are.
func (c *conn) trimConfigs() {
	if len(c.Configs) < maxConfigs {
		return
	}
	c.Configs = nil
	for id, s := range c.Rooms {
		s.Config = -1
		c.Rooms[id] = s
	}
	for _, s := range c.Undo {
		if s != nil {
			s.Config = -1
		}
	}
}

// configIndex is the index of a want, by its text.
func (c *conn) configIndex(text string) int {
	for i, t := range c.Configs {
		if t == text {
			return i
		}
	}
	// Where there is no room for a want, its digest stands for it: that says whether it is
	// the same, and as what was sent by it is not known, all is sent when it changes.
	size := len(text)
	for _, t := range c.Configs {
		size += len(t)
	}
	if size > maxConfigBytes {
		text = digest(text)
		if i := slices.Index(c.Configs, text); i >= 0 {
			return i
		}
	}
	c.Configs = append(c.Configs, text)
	return len(c.Configs) - 1
}

// digest stands for a text of any length. It is no JSON.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "#" + hex.EncodeToString(sum[:])
}

// had reports whether the client has a member event that was sent as needed; if
// not, it is noted as sent with an answer.
func (c *conn) had(room, user string, event, answer int64) bool {
	m := c.lazy[room]
	if s, ok := m[user]; ok && s.event == event && s.answer <= c.n {
		return true
	}
	if c.lazies >= maxLazy {
		c.lazy, c.lazies, m = map[string]map[string]member{}, 0, nil
	}
	if m == nil {
		m = map[string]member{}
		c.lazy[room] = m
	}
	if _, ok := m[user]; !ok {
		c.lazies++
	}
	m[user] = member{event, answer}
	return false
}

const (
	selectConnection = `SELECT serial, answer, pos, state FROM sliding_connections WHERE user_id = $1 AND device_id = $2 AND conn_id = $3`
	upsertConnection = `INSERT INTO sliding_connections (user_id, device_id, conn_id, serial, answer, pos, used_ts, state)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (user_id, device_id, conn_id) DO UPDATE SET serial = excluded.serial, answer = excluded.answer, pos = excluded.pos,
			used_ts = excluded.used_ts, state = excluded.state`
	pruneConnections = `DELETE FROM sliding_connections WHERE user_id = $1 AND device_id = $2 AND conn_id NOT IN
		(SELECT conn_id FROM sliding_connections WHERE user_id = $1 AND device_id = $2 ORDER BY used_ts DESC LIMIT $3)`
	deleteConnections = `DELETE FROM sliding_connections WHERE user_id = $1 AND device_id = $2`
	expireConnections = `DELETE FROM sliding_connections WHERE used_ts < $1`
)

// load reads the connection from the database, if it is there.
func (c *conn) load(q store.Querier) error {
	var state []byte
	var serial, n, pos int64
	err := q.QueryRow(selectConnection, c.key.user, c.key.device, c.key.id).Scan(&serial, &n, &pos, &state)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	c.reset()
	c.dirty = false
	if json.Unmarshal(state, &c.saved) != nil || c.Rooms == nil { // of another version: the client begins anew
		c.reset()
		return nil
	}
	if c.Begun == nil {
		c.Begun = map[string]bool{}
	}
	c.serial, c.n, c.pos, c.behind = serial, n, pos, true
	return nil
}

// save writes the connection to the database.
func (c *conn) save(tx *store.Tx, now int64) error {
	state, err := json.Marshal(c.saved)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(upsertConnection, c.key.user, c.key.device, c.key.id, c.serial, c.n, c.pos, now, state); err != nil {
		return err
	}
	_, err = tx.Exec(pruneConnections, c.key.user, c.key.device, maxConnections)
	return err
}
