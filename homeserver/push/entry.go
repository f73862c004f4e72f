package push

import (
	"slices"
	"sync"

	"holdfast/homeserver/ephemeral"
)

// entry is what one user has not read in one room, up to pos.
type entry struct {
	key  key
	size int // bytes accounted for; guarded by Counter.mu

	mu      sync.Mutex
	loaded  bool
	pos     int64 // evaluated up to here; 0: not at all
	born    int64 // snapshot from which on it was evaluated by what held then, see Counter.Recount
	read    ephemeral.ReadUpTo
	readAt  int64
	items   []item   // notifying events, oldest first
	threads []string // names that items have by number; 0 is the main timeline
	folded  map[string]sum
	work    int // events evaluated since the last checkpoint
}

// item is an unread event that notifies.
type item struct {
	pos       int64
	thread    int32
	highlight bool
	call      bool // an invitation to a call
}

// sum counts items that are no longer held one by one: those of (after, upTo].
type sum struct {
	Counts
	After, UpTo int64
}

const baseCost = 400

func (e *entry) bytes() int {
	n := baseCost + 16*cap(e.items) + 120*len(e.folded)
	for _, t := range e.threads {
		n += 40 + len(t)
	}
	return n
}

// reset forgets everything but the receipts.
func (e *entry) reset() {
	e.clear()
	e.pos = 0
}

// clear drops everything unread.
func (e *entry) clear() { e.items, e.threads, e.folded = nil, nil, nil }

// readOf is the position up to which a thread was read; "" is the main timeline.
func (e *entry) readOf(thread string) int64 { return readOf(e.read, thread) }

func readOf(r ephemeral.ReadUpTo, thread string) int64 {
	if thread == "" {
		return max(r.Unthreaded, r.Main)
	}
	return max(r.Unthreaded, r.Threads[thread])
}

func (e *entry) number(thread string) int32 {
	if thread == "" {
		return 0
	}
	if i := slices.Index(e.threads, thread); i >= 0 {
		return int32(i + 1)
	}
	e.threads = append(e.threads, thread)
	return int32(len(e.threads))
}

func (e *entry) name(number int32) string {
	if number == 0 {
		return ""
	}
	return e.threads[number-1]
}

// add notes a notifying event. When there are many, the older half is summed up.
func (e *entry) add(pos int64, thread string, highlight, call bool) {
	e.items = append(e.items, item{pos, e.number(thread), highlight, call})
	if len(e.items) <= maxItems {
		return
	}
	if e.folded == nil {
		e.folded = map[string]sum{}
	}
	const half = maxItems / 2
	for _, it := range e.items[:half] {
		name := e.name(it.thread)
		s, ok := e.folded[name]
		if !ok {
			s.After = it.pos - 1
		}
		s.Notifications++
		if it.highlight {
			s.Highlights++
		}
		s.UpTo = it.pos
		e.folded[name] = s
	}
	e.items = append([]item(nil), e.items[half:]...)
	e.compact()
}

// compact drops the names of threads that no item has.
func (e *entry) compact() {
	old := e.threads
	e.threads = nil
	for i, it := range e.items {
		if it.thread > 0 {
			e.items[i].thread = e.number(old[it.thread-1])
		}
	}
}

// prune applies receipts. It returns false if one fell amidst a sum.
func (e *entry) prune(read ephemeral.ReadUpTo) bool {
	e.read = read
	for name, s := range e.folded {
		switch at := e.readOf(name); {
		case at >= s.UpTo:
			delete(e.folded, name)
		case at > s.After:
			return false
		}
	}
	if len(e.items) > 0 {
		e.items = slices.DeleteFunc(e.items, func(it item) bool { return it.pos <= e.readOf(e.name(it.thread)) })
		e.compact()
	}
	return true
}

// dropUpTo drops what is unread in a thread up to a position. It is only called
// with the position that is being evaluated, so that sums never reach beyond it.
func (e *entry) dropUpTo(thread string, pos int64) {
	delete(e.folded, thread)
	if len(e.items) > 0 {
		e.items = slices.DeleteFunc(e.items, func(it item) bool { return it.pos <= pos && e.name(it.thread) == thread })
		e.compact()
	}
}

// remove drops one event, as when it is redacted. One that is in a sum stays
// counted until it is read.
func (e *entry) remove(pos int64) {
	e.items = slices.DeleteFunc(e.items, func(it item) bool { return it.pos == pos })
}

// counts counts what is unread up to a position.
func (e *entry) counts(to int64) (main Counts, threads map[string]Counts) {
	put := func(thread string, c Counts) {
		if thread == "" {
			main.Add(c)
			return
		}
		if threads == nil {
			threads = map[string]Counts{}
		}
		c.Add(threads[thread])
		threads[thread] = c
	}
	for name, s := range e.folded {
		put(name, s.Counts)
	}
	for _, it := range e.items {
		if it.pos > to {
			break
		}
		c := Counts{Notifications: 1}
		if it.highlight {
			c.Highlights = 1
		}
		put(e.name(it.thread), c)
	}
	return main, threads
}
