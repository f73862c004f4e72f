package sfu

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrCallFull means that a call has as many participants as it may have.
var ErrCallFull = errors.New("sfu: the call is full")

// selfTestRoom begins the names of the self-test's rooms, which no limit holds for.
// The homeserver's names are hashes, which have no such letters in them.
const selfTestRoom = "self-test-"

// What Full answers.
const (
	FullCalls        = "calls"        // no further call can begin now
	FullParticipants = "participants" // nobody else can come into the call now
)

// Full says which limit keeps identity from joining room at this moment; "": none.
// Who is in the call already may always come back.
func (s *SFU) Full(room, identity string) string {
	_, err := s.presence.admit(room, identity, s.o.MaxCalls, s.o.MaxParticipants, false)
	switch {
	case errors.Is(err, ErrTooManyRooms):
		return FullCalls
	case errors.Is(err, ErrCallFull):
		return FullParticipants
	}
	return ""
}

// admit checks the limits and, with hold, keeps a seat until leave is called: two who
// come at once cannot both have the last one. Errors: ErrTooManyRooms, ErrCallFull.
func (p *presence) admit(room, identity string, maxCalls, maxParticipants int, hold bool) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, in := p.rooms[room][identity]
	if in = in || p.coming[room][identity] > 0; !in && !strings.HasPrefix(room, selfTestRoom) {
		n := len(p.rooms[room])
		for who := range p.coming[room] {
			if _, counted := p.rooms[room][who]; !counted {
				n++
			}
		}
		if maxParticipants > 0 && n >= maxParticipants {
			return nil, ErrCallFull
		}
		if n == 0 && maxCalls > 0 && p.calls() >= maxCalls {
			return nil, ErrTooManyRooms
		}
	}
	if !hold {
		return func() {}, nil
	}
	if p.coming == nil {
		p.coming = map[string]map[string]int{}
	}
	if p.coming[room] == nil {
		p.coming[room] = map[string]int{}
	}
	p.coming[room][identity]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.coming[room][identity]--; p.coming[room][identity] <= 0 {
			delete(p.coming[room], identity)
		}
		if len(p.coming[room]) == 0 {
			delete(p.coming, room)
		}
	}, nil
}

// calls counts the rooms with somebody in them or on the way in. p.mu is held.
func (p *presence) calls() (n int) {
	for room, in := range p.rooms {
		if len(in) > 0 && !strings.HasPrefix(room, selfTestRoom) {
			n++
		}
	}
	for room := range p.coming {
		if len(p.rooms[room]) == 0 && !strings.HasPrefix(room, selfTestRoom) {
			n++
		}
	}
	return n
}

// refuse answers one for whom there is no room. Clients in browsers see no status of a
// websocket: they ask the validate path, and LiveKit's client tells its user of a 404
// with these words that the call cannot be held now, of others only that it failed.
func (s *SFU) refuse(w http.ResponseWriter, r *http.Request, err error) {
	text := fmt.Sprintf("the server carries as many calls as it may at once (%d); try again later", s.o.MaxCalls)
	if errors.Is(err, ErrCallFull) {
		text = fmt.Sprintf("the call is full: it may have %d participants", s.o.MaxParticipants)
	}
	if strings.HasSuffix(r.URL.Path, "/validate") {
		http.Error(w, "requested room does not exist: "+text, http.StatusNotFound)
		return
	}
	http.Error(w, text, http.StatusServiceUnavailable)
}

// maxMessage is how long a message of a client may be. The longest are descriptions of
// a connection with some hundred tracks.
const maxMessage = 1 << 20 // bytes

// bounded has connections that are taken over read no message that is longer than
// maxMessage: LiveKit would take any into memory. Each is given to taken.
type bounded struct {
	http.ResponseWriter
	taken func(*messages)
}

func (b bounded) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b bounded) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(b.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if rw.Reader.Buffered() > 0 { // a client that does not wait for the answer; the frames would not be counted
		c.Close()
		return nil, nil, errors.New("sfu: the client sent data before the handshake was over")
	}
	m := &messages{Conn: c, ended: make(chan struct{})}
	if b.taken != nil {
		b.taken(m)
	}
	return m, bufio.NewReadWriter(bufio.NewReader(m), rw.Writer), nil
}

var errLongMessage = fmt.Errorf("sfu: a message is longer than %d bytes", maxMessage)

// messages is a websocket connection (RFC 6455, section 5): it counts the bytes of each
// message that comes, and can put a ping between the frames that go out.
type messages struct {
	net.Conn
	frames frames
	heard  atomic.Int64 // when something came last, Unix nanoseconds

	writing sync.Mutex
	begun   bool                      // the answer to the handshake is out, alone
	out     frames                    // what goes out
	until   atomic.Pointer[time.Time] // the deadline of writes; nil: none was set
	once    sync.Once
	ended   chan struct{} // closed by Close
}

func (m *messages) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if n > 0 {
		m.heard.Store(time.Now().UnixNano())
	}
	if !m.frames.take(b[:n], maxMessage) {
		return 0, errLongMessage
	}
	return n, err
}

func (m *messages) Write(b []byte) (int, error) {
	m.writing.Lock()
	defer m.writing.Unlock()
	n, err := m.Conn.Write(b)
	if m.begun {
		m.out.take(b[:n], math.MaxUint64)
	} else if n == len(b) && bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		m.begun = true
	}
	return n, err
}

func (m *messages) Close() error {
	m.once.Do(func() { close(m.ended) })
	return m.Conn.Close()
}

func (m *messages) SetWriteDeadline(t time.Time) error {
	m.until.Store(&t)
	return m.Conn.SetWriteDeadline(t)
}

// pingPatience is how long a ping may wait for room in the connection.
const pingPatience = 100 * time.Millisecond

// ping asks for a sign of life, which each client's websocket gives without its
// program: browsers slow the timers of pages that nobody looks at. Inside a message
// that is still going out, and before the first, it does nothing.
func (m *messages) ping() {
	if !m.writing.TryLock() {
		return
	}
	defer m.writing.Unlock()
	if !m.begun || m.out.have > 0 || m.out.skip > 0 {
		return
	}
	m.Conn.SetWriteDeadline(time.Now().Add(pingPatience))
	n, _ := m.Conn.Write([]byte{0x89, 0}) // a final frame, opcode 9, nothing in it
	if n == 1 {
		m.Close() // what follows could not be read
	}
	if t := m.until.Load(); t != nil {
		m.Conn.SetWriteDeadline(*t)
	} else {
		m.Conn.SetWriteDeadline(time.Time{})
	}
}

// frames follows a stream of frames. The zero value is at its start.
type frames struct {
	head   [14]byte
	have   int    // bytes of head
	skip   uint64 // bytes of the payload that are still to come
	length uint64 // of the message so far
}

// take reads on, and reports false once a message is longer than limit.
func (f *frames) take(b []byte, limit uint64) bool {
	for len(b) > 0 {
		if f.skip > 0 {
			n := min(f.skip, uint64(len(b)))
			f.skip -= n
			b = b[n:]
			continue
		}
		f.head[f.have] = b[0]
		f.have++
		b = b[1:]
		if f.have < 2 {
			continue
		}
		size, extra := uint64(f.head[1]&0x7f), 0
		switch size {
		case 126:
			extra = 2
		case 127:
			extra = 8
		}
		mask := 0
		if f.head[1]&0x80 != 0 {
			mask = 4
		}
		if f.have < 2+extra+mask {
			continue
		}
		if extra > 0 {
			size = 0
			for _, x := range f.head[2 : 2+extra] {
				size = size<<8 | uint64(x)
			}
		}
		final, control := f.head[0]&0x80 != 0, f.head[0]&0x08 != 0
		f.have, f.skip = 0, size
		if size > limit {
			return false
		}
		if control { // may stand between the parts of a message
			continue
		}
		if f.length += size; f.length > limit {
			return false
		}
		if final {
			f.length = 0
		}
	}
	return true
}
