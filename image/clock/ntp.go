package clock

import (
	"fmt"
	"slices"
	"time"

	"github.com/beevik/ntp"
)

// Server is an NTP server, and what it said last.
type Server struct {
	Address string        `json:"address"`
	Offset  time.Duration `json:"offset"` // what has to be added to the clock
	Delay   time.Duration `json:"delay"`
	Stratum int           `json:"stratum"`
	Last    time.Time     `json:"last,omitzero"`   // of its last answer that counts
	Error   string        `json:"error,omitempty"` // of the last question
	// Left: it asked not to be asked any more.
	Left bool `json:"left,omitempty"`

	skip int // questions to leave out: it asked to be asked less
}

// sample is one answer that counts. The true offset is within distance of offset,
// if the server is right.
type sample struct{ offset, distance time.Duration }

// Ask asks the servers now.
func (c *Clock) Ask() {
	select {
	case c.now <- struct{}{}:
	default:
	}
}

// ask asks the servers, often until they answered and seldom after that.
func (c *Clock) ask() {
	for c.ctx.Err() == nil {
		c.round()
		c.mu.Lock()
		wait := max(c.poll, c.o.retry)
		c.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-c.ctx.Done():
		case <-c.now:
		case <-t.C:
		}
		t.Stop()
	}
}

// round asks all servers once, and does what they agree on.
func (c *Clock) round() {
	c.mu.Lock()
	servers := slices.Clone(c.servers)
	c.mu.Unlock()
	if len(servers) == 0 {
		return
	}
	type answer struct {
		s   *Server
		r   *ntp.Response
		err error
	}
	var asked int
	answers := make(chan answer, len(servers))
	for _, s := range servers {
		c.mu.Lock()
		leave := s.Left || s.skip > 0
		s.skip = max(0, s.skip-1)
		c.mu.Unlock()
		if leave {
			continue
		}
		asked++
		go func() {
			r, err := ntp.QueryWithOptions(s.Address, ntp.QueryOptions{Timeout: c.o.timeout, GetSystemTime: c.kernel.Now})
			answers <- answer{s, r, err}
		}()
	}
	var good []sample
	for range asked {
		a := <-answers
		c.mu.Lock()
		if x, ok := a.s.take(a.r, a.err); ok {
			a.s.Last = c.kernel.Now().Add(x.offset)
			good = append(good, x)
		}
		c.mu.Unlock()
	}
	if c.ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(servers, c.servers) {
		return // others have been named meanwhile
	}
	offset, ok := agree(good)
	switch {
	case len(good) == 0:
		c.poll = min(max(2*c.poll, c.o.retry), c.o.every)
		return
	case !ok:
		c.poll = min(max(2*c.poll, c.o.retry), c.o.every)
		c.alarm("disagree", fmt.Sprintf("The %d time servers that answer do not agree on the time, so none of them is followed. Name others in the console, three or more.", len(good)))
		return
	}
	delete(c.alarms, "disagree")
	c.poll = c.o.every
	c.follow(offset)
}

// take reads an answer, and tells whether it counts.
func (s *Server) take(r *ntp.Response, err error) (sample, bool) {
	if err != nil {
		s.Error = fmt.Sprintf("no answer: %v", err)
		return sample{}, false
	}
	if r.IsKissOfDeath() {
		switch r.KissCode {
		case "RATE":
			s.skip, s.Error = 4, "it asks to be asked less often"
		case "DENY", "RSTR":
			s.Left, s.Error = true, "it refuses to be asked by this machine: name another server"
		default:
			s.skip, s.Error = 1, fmt.Sprintf("it is not ready (%q)", r.KissCode)
		}
		return sample{}, false
	}
	if err := r.Validate(); err != nil {
		s.Error = fmt.Sprintf("its own time is not in order: %v", err)
		return sample{}, false
	}
	s.Offset, s.Delay, s.Stratum, s.Error = r.ClockOffset, r.RTT, int(r.Stratum), ""
	// A little for the clocks' own grain.
	return sample{r.ClockOffset, r.RootDistance + 10*time.Millisecond}, true
}

// agree finds the offset that most servers can be right with (Marzullo's algorithm).
// More than half of those that answered must be among them.
func agree(list []sample) (time.Duration, bool) {
	type edge struct {
		at    time.Duration
		begin bool
	}
	var edges []edge
	for _, x := range list {
		edges = append(edges, edge{x.offset - x.distance, true}, edge{x.offset + x.distance, false})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		case a.begin == b.begin:
			return 0
		case a.begin:
			return -1
		}
		return 1
	})
	best, n, ambiguous := 0, 0, false
	var from, to time.Duration
	for i, e := range edges {
		if !e.begin {
			n--
			continue
		}
		if n++; n > best {
			best, from, to, ambiguous = n, e.at, edges[i+1].at, false
		} else if n == best {
			// One that knows the time badly agrees with two that do not agree.
			ambiguous = true
		}
	}
	if 2*best <= len(list) || ambiguous {
		return 0, false
	}
	// Of those that agree the ones that know best.
	mid, least := from+(to-from)/2, time.Duration(-1)
	for _, x := range list {
		if x.offset-x.distance <= from && x.offset+x.distance >= to && (least < 0 || x.distance < least) {
			mid, least = x.offset, x.distance
		}
	}
	return mid, true
}

// follow brings the clock to what servers agree on, as far as that may be done.
func (c *Clock) follow(offset time.Duration) {
	now := c.kernel.Now()
	far := func(why string) {
		c.waiting = offset
		how := "behind"
		if offset < 0 {
			how = "ahead of"
		}
		c.alarm("servers_far", fmt.Sprintf("The appliance's clock is %s %s the time servers'. It is not set by itself, because %s. Confirm the right time in the console.", offset.Abs().Round(time.Second), how, why))
	}
	switch {
	case c.check(now.Add(offset)) != nil:
		c.waiting = 0
		c.alarm("servers_far", fmt.Sprintf("The time servers say that it is %s, which cannot be right. Name others in the console.", when(now.Add(offset))))
		return
	case offset.Abs() <= slewMost:
		if err := c.kernel.Slew(offset); err != nil {
			c.alarm("not_set", fmt.Sprintf("The clock cannot be set: %v.", err))
			return
		}
		delete(c.alarms, "not_set")
	case offset < 0:
		far("a clock that goes back would mix up the order of what happened")
		return
	case c.trusted && offset > plausibleStep:
		far("that is more than a day, and the clock seemed right")
		return
	default:
		if !c.step(now.Add(offset)) {
			return
		}
	}
	first := c.source != FromNTP
	c.source, c.trusted, c.waiting, c.offset = FromNTP, true, 0, offset
	c.synced, c.syncedAt = c.kernel.Now(), time.Now()
	for _, code := range []string{"servers_far", "rtc_behind", "rtc_ahead", "mark_ahead", "mark_unreadable", "skew"} {
		if code == "rtc_behind" && c.alarms[code] != "" {
			// The time is right again; the battery is not.
			c.alarm("rtc_behind", "The battery-backed clock was wrong at the start, and a time server has set it. Its battery may be empty: replace it.")
			continue
		}
		delete(c.alarms, code)
	}
	c.raise()
	if first || offset > slewMost {
		c.setRTC()
		_ = c.saveMark() // it is an alarm
	}
}
