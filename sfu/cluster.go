package sfu

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livekit/livekit-server/pkg/routing"
	"github.com/livekit/livekit-server/pkg/service"
	"github.com/livekit/livekit-server/pkg/utils"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	"github.com/livekit/protocol/rpc"
	"github.com/livekit/psrpc"
	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"
)

// Cluster joins the relay with relays on other machines, by way of a Redis. The
// appliance's relay answers all clients and decides where a call is held; a node holds
// calls and talks with their clients by media only. Signalling goes through Redis, as
// LiveKit relays it; who is where is told there too, in messages that the key signs.
type Cluster struct {
	Redis    string // "host:port"
	User     string // "": Redis' default user
	Password string
	TLS      bool
	CA       string // PEM, with TLS; "": the system's authorities

	// Key is the cluster's: the tokens' key is derived from it, and who has another is
	// not heard. It has at least MinClusterKey characters.
	Key string
	// Node is a relay that takes calls which the appliance's gives it.
	Node bool
	Name string // of a node, in lists
}

// MinClusterKey is how short a cluster's key may be.
const MinClusterKey = 32

// ErrRedis means that the cluster's Redis does not answer, or not as it should.
var ErrRedis = errors.New("sfu: the cluster's Redis cannot be used")

func (c *Cluster) check() error {
	if _, _, err := net.SplitHostPort(c.Redis); err != nil {
		return fmt.Errorf("sfu: the address of the cluster's Redis must be HOST:PORT: %w", err)
	}
	if c.Password == "" {
		return errors.New("sfu: the cluster's Redis must have a password: whoever reaches it could join any call")
	}
	if len(c.Key) < MinClusterKey {
		return fmt.Errorf("sfu: the cluster's key must have at least %d characters", MinClusterKey)
	}
	if c.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CA)) {
		return errors.New("sfu: the authority of the cluster's Redis is no certificate in PEM form")
	}
	return nil
}

// derive makes a secret of the cluster's key for one purpose.
func (c *Cluster) derive(purpose string) string {
	b, err := hkdf.Key(sha256.New, []byte(c.Key), nil, "holdfast call relays: "+purpose, 32)
	if err != nil {
		panic(err) // the length is a constant
	}
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b)
}

func (c *Cluster) client() (redis.UniversalClient, error) {
	o := &redis.UniversalOptions{
		Addrs: []string{c.Redis}, Username: c.User, Password: c.Password,
		DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second, MaxRetries: -1,
	}
	if c.TLS {
		host, _, err := net.SplitHostPort(c.Redis)
		if err != nil {
			return nil, err
		}
		o.TLSConfig = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
		if c.CA != "" {
			o.TLSConfig.RootCAs = x509.NewCertPool()
			o.TLSConfig.RootCAs.AppendCertsFromPEM([]byte(c.CA))
		}
	}
	return redis.NewUniversalClient(o), nil
}

const (
	beatEvery = time.Second
	// deadAfter is how long a node may be silent. A call whose node is gone is back
	// within fifteen seconds, most of which is the clients'.
	deadAfter = 4 * time.Second
	// awayTime is how long those on a node that is gone may take to come back.
	awayTime = 20 * time.Second
	// settled is after how long what a node says of a room is newer than that the room
	// was given to it.
	settled = 3 * time.Second
	// firstBeats is how long the nodes may take to tell a new relay what they hold.
	firstBeats = 700 * time.Millisecond
	maxNote    = 16 << 20 // bytes
)

// topic is the channel of the notes. It is the same for all clusters, so that a relay
// which has another key by mistake is noticed.
const topic = "holdfast:relays"

// The kinds of notes.
const (
	noteBeat   = "beat"   // how a node is, and who is on it
	noteHello  = "hello"  // the appliance's relay is there: tell it
	noteRemove = "remove" // a node is to take a participant out
	noteClose  = "close"  // a node is to give up a room, which another holds
	noteLook   = "look"   // somebody looks at the calls, or at the room that is named
	noteCalls  = "calls"  // how a node's calls are: all, and the people in those that are looked at
)

// The states of a node.
const (
	NodeServing  = "serving"
	NodeDraining = "draining" // it takes no further calls
	NodeLeaving  = "leaving"  // it is gone in a moment
)

// note is a message between relays.
type note struct {
	Kind      string                       `json:"kind"`
	Node      string                       `json:"node,omitempty"` // whose it is, or for whom
	Name      string                       `json:"name,omitempty"`
	State     string                       `json:"state,omitempty"`
	Addresses []string                     `json:"addresses,omitempty"`
	UDP       int                          `json:"udp,omitempty"`
	CPUs      int                          `json:"cpus,omitempty"`
	Rooms     map[string]map[string]string `json:"rooms,omitempty"` // room → identity → session
	Room      string                       `json:"room,omitempty"`
	Identity  string                       `json:"identity,omitempty"`
	Calls     []Call                       `json:"calls,omitempty"`
}

// Node is a node as the appliance's relay sees it.
type Node struct {
	Name         string    `json:"name"`
	State        string    `json:"state"`
	Addresses    []string  `json:"addresses"`
	Rooms        int       `json:"rooms"`
	Participants int       `json:"participants"`
	Seen         time.Time `json:"seen"`
}

// ClusterStatus says how the cluster is. The zero value: there is none.
type ClusterStatus struct {
	Redis   string `json:"redis,omitempty"`   // its address
	Trouble string `json:"trouble,omitempty"` // why it cannot be used
	Nodes   []Node `json:"nodes,omitempty"`   // besides this relay
}

// member is a node that is heard.
type member struct {
	note
	seen time.Time
}

func (m *member) participants() (n int) {
	for _, r := range m.Rooms {
		n += len(r)
	}
	return n
}

// holding says which node a room was given to.
type holding struct {
	node  livekit.NodeID
	since time.Time
}

// cluster is the relay's part in a cluster, for as long as its engine runs.
type cluster struct {
	s       *SFU
	e       *engine
	o       Cluster
	self    livekit.NodeID
	rc      redis.UniversalClient
	bus     psrpc.MessageBus
	mac     []byte
	remote  routing.SignalClient
	manager routing.RoomManagerClient
	changed chan struct{} // a node has something to tell
	done    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	nodes   map[livekit.NodeID]*member
	rooms   map[string]holding
	carried map[*carried]livekit.NodeID
	trouble error // Redis'
	foreign bool  // a note with another key was logged
	leaving bool

	figures map[livekit.NodeID]nodeCalls
	news    chan struct{}        // closed when figures came, and made anew
	looked  map[string]time.Time // a node's: when somebody looked at a room last, or ("") at all
	kick    chan struct{}        // a node's: somebody looks at what nobody looked at before
}

// nodeCalls are what a node said of its calls.
type nodeCalls struct {
	at    time.Time
	calls map[string]Call
}

// redisLog is where the Redis client says what it could not do, which is told in words
// of ours too.
type redisLog struct{ log *slog.Logger }

// Printf implements the client's logger.
func (l redisLog) Printf(_ context.Context, format string, v ...any) {
	l.log.Debug(fmt.Sprintf(format, v...))
}

// The Redis client has one logger in a package variable.
var redisLogger sync.Once

// newCluster prepares the part. It connects with nothing yet.
func newCluster(s *SFU, e *engine, self livekit.NodeID) (*cluster, error) {
	redisLogger.Do(func() { redis.SetLogger(redisLog{s.log}) })
	rc, err := s.o.Cluster.client()
	if err != nil {
		return nil, err
	}
	c := &cluster{
		s: s, e: e, o: *s.o.Cluster, self: self, rc: rc,
		mac:     []byte(s.o.Cluster.derive("notes")),
		changed: make(chan struct{}, 1), done: make(chan struct{}),
		nodes: map[livekit.NodeID]*member{}, rooms: map[string]holding{}, carried: map[*carried]livekit.NodeID{},
		figures: map[livekit.NodeID]nodeCalls{}, news: make(chan struct{}), looked: map[string]time.Time{}, kick: make(chan struct{}, 1),
	}
	c.bus = psrpc.NewRedisMessageBus(rc)
	if c.remote, err = routing.NewSignalClient(self, c.bus, e.conf.SignalRelay); err != nil {
		return nil, err
	}
	params := rpc.NewClientParams(e.conf.PSRPC, c.bus, logger.GetLogger(), rpc.PSRPCMetricsObserver{})
	c.manager, err = routing.NewRoomManagerClient(params, e.conf.Room)
	return c, err
}

// start begins to talk. A node needs Redis for it; the appliance's relay goes on alone
// without it. Errors: ErrRedis.
func (c *cluster) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := c.rc.Ping(ctx).Err()
	c.redis(err)
	if err != nil && c.o.Node {
		return fmt.Errorf("%w: %s: %w", ErrRedis, c.o.Redis, err)
	}
	go c.hear()
	go c.tell()
	if !c.o.Node {
		if err == nil {
			time.Sleep(firstBeats) // which call is held where is known before anybody joins
		}
		return nil
	}
	go c.show()
	c.s.presence.subscribe(func(Change) {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	})
	return nil
}

func (c *cluster) stop() {
	c.once.Do(func() { close(c.done) })
	c.rc.Close()
}

// redis notes whether Redis answers.
func (c *cluster) redis(err error) {
	c.mu.Lock()
	was := c.trouble
	c.trouble = err
	c.mu.Unlock()
	switch {
	case err != nil && was == nil:
		c.s.log.Error("the cluster's Redis cannot be used; calls on this machine go on", "redis", c.o.Redis, "err", err)
	case err == nil && was != nil:
		c.s.log.Info("the cluster's Redis answers again", "redis", c.o.Redis)
	}
}

// send publishes a note.
func (c *cluster) send(n note) {
	body, err := json.Marshal(n)
	if err != nil {
		c.s.log.Error("a note to the other call relays cannot be written", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c.redis(c.rc.Publish(ctx, topic, string(c.sign(body))+string(body)).Err())
}

func (c *cluster) sign(body []byte) []byte {
	h := hmac.New(sha256.New, c.mac)
	h.Write(body)
	return h.Sum(nil)
}

// open checks and reads a note.
func (c *cluster) open(b []byte) (n note, err error) {
	if len(b) < sha256.Size || len(b) > maxNote {
		return n, errors.New("it has no signature, or is too long")
	}
	if !hmac.Equal(b[:sha256.Size], c.sign(b[sha256.Size:])) {
		return n, errors.New("its sender has another cluster key")
	}
	return n, json.Unmarshal(b[sha256.Size:], &n)
}

// hear takes the others' notes.
func (c *cluster) hear() {
	ps := c.rc.Subscribe(context.Background(), topic)
	defer ps.Close()
	in := ps.Channel(redis.WithChannelHealthCheckInterval(2*time.Second), redis.WithChannelSize(1000))
	for {
		select {
		case m, ok := <-in:
			if !ok {
				return
			}
			n, err := c.open([]byte(m.Payload))
			switch {
			case err != nil:
				c.mu.Lock()
				first := !c.foreign
				c.foreign = true
				c.mu.Unlock()
				if first {
					c.s.log.Warn("a note on the cluster's Redis is not heard", "why", err)
				}
			case c.o.Node:
				c.order(n)
			case n.Kind == noteBeat && n.Node != "":
				c.beat(n)
			case n.Kind == noteCalls:
				c.shown(n)
			}
		case <-c.done:
			return
		}
	}
}

// tell says every now and then that this relay is there, and looks who else is.
func (c *cluster) tell() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		if c.o.Node {
			c.send(c.about())
		} else {
			c.send(note{Kind: noteHello})
		}
		select {
		case <-tick.C:
		case <-c.changed:
			// What follows at once is told along; a beat is long where many are there.
			select {
			case <-time.After(100*time.Millisecond + time.Duration(c.s.presence.stats().Participants)*time.Millisecond/2):
			case <-c.done:
				return
			}
		case <-c.done:
			return
		}
		now := time.Now()
		c.look(now, now.Sub(last)-2*beatEvery)
		last = now
	}
}

// sendAway has the clients of all calls on other relays come again: this relay stops,
// and the calls go on.
func (c *cluster) sendAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for x := range c.carried {
		x.away()
	}
}

// about is the node's beat.
func (c *cluster) about() note {
	state := NodeServing
	if c.s.leaving() {
		state = NodeDraining
	}
	c.mu.Lock()
	if c.leaving {
		state = NodeLeaving
	}
	c.mu.Unlock()
	return note{Kind: noteBeat, Node: string(c.self), Name: c.o.Name, State: state, CPUs: runtime.NumCPU(),
		Addresses: c.e.conf.RTC.NodeIP.ToStringSlice(), UDP: c.e.ports.UDP, Rooms: c.s.presence.all()}
}

// leave tells the appliance's relay that this node is gone in a moment: its calls are
// held elsewhere from now on.
func (c *cluster) leave() {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	c.send(c.about())
	time.Sleep(200 * time.Millisecond) // it is heard before clients come
}

// order does what the appliance's relay asks of a node.
func (c *cluster) order(n note) {
	switch {
	case n.Kind == noteHello:
		select {
		case c.changed <- struct{}{}:
		default:
		}
	case n.Kind == noteLook:
		c.noticed(n.Room)
	case n.Node != string(c.self):
	case n.Kind == noteRemove:
		_, err := c.e.rooms.RemoveParticipant(context.Background(), &livekit.RoomParticipantIdentity{Room: n.Room, Identity: n.Identity})
		if err != nil {
			c.s.log.Debug("the participant had left", "err", err)
		}
	case n.Kind == noteClose:
		c.s.log.Warn("a call is held by another relay; it is given up here")
		c.e.sendAway([]string{n.Room})
		if _, err := c.e.rooms.DeleteRoom(context.Background(), &livekit.DeleteRoomRequest{Room: n.Room}); err != nil {
			c.s.log.Debug("the call was over", "err", err)
		}
	}
}

// beat takes over what a node says of itself, and sends what it is to do.
func (c *cluster) beat(n note) {
	for _, o := range c.take(n) {
		c.send(o)
	}
}

func (c *cluster) take(n note) (orders []note) {
	id, now := livekit.NodeID(n.Node), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	m, p := c.nodes[id], c.s.presence
	if m == nil {
		if n.State == NodeLeaving {
			return nil
		}
		m = &member{}
		c.nodes[id] = m
		c.s.log.Info("a call relay joined the cluster", "name", n.Name, "addresses", strings.Join(n.Addresses, ","))
	}
	old := m.Rooms
	m.note, m.seen = n, now
	for room, people := range n.Rooms {
		h, given := c.rooms[room]
		if !given && c.e.rooms.GetRoom(context.Background(), livekit.RoomName(room)) != nil {
			h, given = holding{c.self, now}, true
		}
		if given && h.node != id {
			orders = append(orders, note{Kind: noteClose, Node: n.Node, Room: room})
			delete(m.Rooms, room)
			continue
		}
		if !given {
			c.rooms[room] = holding{id, now}
		}
		p.began(room)
		for who, session := range people {
			if old[room][who] != session {
				p.joined(room, who, session)
			}
			if c.s.isRemoved(seat{room, who}) { // it did not hear it
				orders = append(orders, note{Kind: noteRemove, Node: n.Node, Room: room, Identity: who})
			}
		}
	}
	for room, people := range old {
		for who, session := range people {
			if m.Rooms[room][who] != session {
				p.left(room, who, session)
			}
		}
	}
	for room, h := range c.rooms {
		if h.node == id && m.Rooms[room] == nil && now.Sub(h.since) > settled {
			delete(c.rooms, room)
			p.ended(room)
		}
	}
	if n.State == NodeLeaving {
		c.lose(id, "it stops")
	}
	return orders
}

// look gives up nodes that are silent. late is how long this machine itself stood still.
func (c *cluster) look(now time.Time, late time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, m := range c.nodes {
		if late > 0 {
			m.seen = m.seen.Add(late)
		}
		if now.Sub(m.seen) > deadAfter {
			c.lose(id, "nothing is heard of it")
		}
	}
	for room, h := range c.rooms {
		if h.node == c.self && now.Sub(h.since) > settled && c.e.rooms.GetRoom(context.Background(), livekit.RoomName(room)) == nil {
			delete(c.rooms, room)
		}
	}
}

// lose gives up a node: its calls are held elsewhere, and their clients are sent there.
// c.mu is held.
func (c *cluster) lose(id livekit.NodeID, why string) {
	m := c.nodes[id]
	delete(c.nodes, id)
	delete(c.figures, id)
	for room, h := range c.rooms {
		if h.node == id {
			delete(c.rooms, room)
		}
	}
	for x, node := range c.carried {
		if node == id {
			x.away()
		}
	}
	c.s.log.Warn("a call relay left the cluster; its calls go on elsewhere", "name", m.Name, "why", why, "participants", m.participants())
	time.AfterFunc(awayTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for room, people := range m.Rooms {
			for who, session := range people {
				if back := c.nodes[id]; back == nil || back.Rooms[room][who] != session {
					c.s.presence.left(room, who, session)
				}
			}
			if _, given := c.rooms[room]; !given && c.e.rooms.GetRoom(context.Background(), livekit.RoomName(room)) == nil {
				c.s.presence.ended(room)
			}
		}
	})
}

// place says which relay holds a room, and chooses one for a room that none holds: the
// one with the fewest participants, and a node rather than the appliance's machine.
func (c *cluster) place(room string) livekit.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	here := c.e.rooms.GetRoom(context.Background(), livekit.RoomName(room)) != nil
	if h, ok := c.rooms[room]; ok && (h.node != c.self || here || time.Since(h.since) < settled) {
		return h.node
	}
	best := c.self
	if !here && !strings.HasPrefix(room, selfTestRoom) {
		elsewhere := 0
		var free []*member
		for _, m := range c.nodes {
			elsewhere += m.participants()
			if m.State == NodeServing {
				free = append(free, m)
			}
		}
		if len(free) > 0 {
			m := slices.MinFunc(free, func(a, b *member) int {
				return cmp.Or(cmp.Compare(a.participants(), b.participants()), cmp.Compare(a.Node, b.Node))
			})
			if m.participants() <= c.s.presence.stats().Participants-elsewhere {
				best = livekit.NodeID(m.Node)
			}
		}
	}
	c.rooms[room] = holding{best, time.Now()}
	return best
}

// orphan reports whether no relay holds a room.
func (c *cluster) orphan(room string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.rooms[room]
	return (!ok || h.node == c.self) && c.e.rooms.GetRoom(context.Background(), livekit.RoomName(room)) == nil
}

// ensure has the room's node make it, where that is another. It reports false where the
// room is to be made here.
func (c *cluster) ensure(ctx context.Context, room string) bool {
	node := c.place(room)
	if node == c.self {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := c.manager.CreateRoom(ctx, node, &livekit.CreateRoomRequest{Name: room}); err != nil {
		c.s.log.Warn("another call relay does not take a call; it is held here", "err", err)
		c.mu.Lock()
		defer c.mu.Unlock()
		if h := c.rooms[room]; h.node == node {
			c.rooms[room] = holding{c.self, time.Now()}
			return false
		}
	}
	c.s.presence.began(room)
	return true
}

// remove has a participant taken out by the room's node. It reports false where the room
// is here.
func (c *cluster) remove(at seat) bool {
	c.mu.Lock()
	h, ok := c.rooms[at.room]
	c.mu.Unlock()
	if !ok || h.node == c.self {
		return false
	}
	c.send(note{Kind: noteRemove, Node: string(h.node), Room: at.room, Identity: at.identity})
	return true
}

func (c *cluster) status() ClusterStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := ClusterStatus{Redis: c.o.Redis}
	if c.trouble != nil {
		st.Trouble = c.trouble.Error()
	}
	for _, m := range c.nodes {
		st.Nodes = append(st.Nodes, Node{m.Name, m.State, m.Addresses, len(m.Rooms), m.participants(), m.seen})
	}
	slices.SortFunc(st.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return st
}

// allocator is LiveKit's, for rooms that another relay may hold.
type allocator struct {
	service.RoomAllocator
	c *cluster
}

// SelectRoomNode implements service.RoomAllocator.
func (a allocator) SelectRoomNode(_ context.Context, room livekit.RoomName, _ livekit.NodeID) error {
	a.c.place(string(room))
	return nil
}

// ValidateCreateRoom implements service.RoomAllocator. SFU.serve has made the room.
func (a allocator) ValidateCreateRoom(ctx context.Context, room livekit.RoomName) error {
	if a.c.place(string(room)) != a.c.self {
		return nil
	}
	return a.RoomAllocator.ValidateCreateRoom(ctx, room)
}

// session begins a session on the room's node. It reports false where that is this one.
func (c *cluster) session(ctx context.Context, room livekit.RoomName, pi routing.ParticipantInit) (res routing.StartParticipantSignalResults, ok bool, err error) {
	node := c.place(string(room))
	if node == c.self {
		return res, false, nil
	}
	res.NodeID = node
	res.ConnectionID, res.RequestSink, res.ResponseSource, err = c.remote.StartParticipantSignal(ctx, room, pi, node)
	if err != nil {
		return res, true, err
	}
	x := &carried{MessageSource: res.ResponseSource, c: c, out: make(chan proto.Message), done: make(chan struct{}), gone: make(chan struct{})}
	c.mu.Lock()
	if c.nodes[node] == nil {
		x.away()
	}
	c.carried[x] = node
	c.mu.Unlock()
	go x.run()
	res.ResponseSource = x
	return res, true, nil
}

// carried is what a node says to a client, until the node is gone: then the client is
// told to come again.
type carried struct {
	routing.MessageSource
	c          *cluster
	out        chan proto.Message
	done, gone chan struct{}
	once, left sync.Once
}

// ReadChan implements routing.MessageSource.
func (x *carried) ReadChan() <-chan proto.Message { return x.out }

// Close implements routing.MessageSource.
func (x *carried) Close() {
	x.once.Do(func() { close(x.done) })
	x.MessageSource.Close()
}

func (x *carried) away() { x.left.Do(func() { close(x.gone) }) }

func (x *carried) run() {
	defer func() {
		x.c.mu.Lock()
		delete(x.c.carried, x)
		x.c.mu.Unlock()
		close(x.out)
	}()
	for {
		var m proto.Message
		last := false
		select {
		case m = <-x.MessageSource.ReadChan():
		case <-x.gone:
			m, last = &livekit.SignalResponse{Message: &livekit.SignalResponse_Leave{Leave: &livekit.LeaveRequest{
				Action: livekit.LeaveRequest_RESUME, Reason: livekit.DisconnectReason_SERVER_SHUTDOWN}}}, true
		case <-x.done:
			return
		}
		if m == nil {
			return
		}
		select {
		case x.out <- m:
		case <-x.done:
			return
		}
		if last {
			return
		}
	}
}

// sessions is where a node's sessions begin: with the appliance's relay, which looked at
// the client's token.
type sessions struct {
	s *SFU
	e *engine
}

// Logger implements service.SessionHandler.
func (h sessions) Logger(ctx context.Context) logger.Logger { return utils.GetLogger(ctx) }

// HandleSession implements service.SessionHandler.
func (h sessions) HandleSession(ctx context.Context, pi routing.ParticipantInit, _ livekit.ConnectionID, in routing.MessageSource, out routing.MessageSink) error {
	at := seat{pi.CreateRoom.GetName(), string(pi.Identity)}
	h.s.signals.begin(at)
	heard := &heard{MessageSource: in, out: make(chan proto.Message), ended: func() {
		if h.s.signals.end(at) && h.s.presence.has(at.room, at.identity) {
			go h.s.listen(h.e, at)
		}
	}, done: make(chan struct{})}
	go heard.run()
	told := &rewritten{MessageSink: out, t: &told{e: h.e, sent: map[string]bool{}}}
	err := h.e.rooms.StartSession(ctx, pi, heard, told, false)
	if err != nil {
		heard.Close()
	}
	return err
}

// heard is what a client says, with its end noticed.
type heard struct {
	routing.MessageSource
	out   chan proto.Message
	done  chan struct{}
	once  sync.Once
	ended func()
}

// ReadChan implements routing.MessageSource.
func (h *heard) ReadChan() <-chan proto.Message { return h.out }

// Close implements routing.MessageSource.
func (h *heard) Close() {
	h.once.Do(func() { close(h.done) })
	h.MessageSource.Close()
}

func (h *heard) run() {
	defer h.ended()
	defer close(h.out)
	for {
		var m proto.Message
		select {
		case m = <-h.MessageSource.ReadChan():
		case <-h.done:
			return
		}
		if m == nil {
			return
		}
		select {
		case h.out <- m:
		case <-h.done:
			return
		}
	}
}

// rewritten is the way to a client, which is told of this node's addresses only.
type rewritten struct {
	routing.MessageSink
	mu sync.Mutex
	t  *told
}

// WriteMessage implements routing.MessageSink.
func (r *rewritten) WriteMessage(m proto.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.t.rewrite(m) {
		if err := r.MessageSink.WriteMessage(x); err != nil {
			return err
		}
	}
	return nil
}
