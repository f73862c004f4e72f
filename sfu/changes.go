package sfu

import "sync"

// Changes hands out changes to those who subscribed, one after the other and in the order
// in which they were put. Whoever puts waits for nobody: one goroutine calls the
// subscribers. Its methods are safe for concurrent use.
type Changes struct {
	mu     sync.Mutex
	queue  []Change
	next   int
	subs   map[int]func(Change)
	wake   chan struct{}
	closed bool
}

// NewChanges starts the goroutine. Close ends it.
func NewChanges() *Changes {
	c := &Changes{subs: map[int]func(Change){}, wake: make(chan struct{}, 1)}
	go c.run()
	return c
}

func (c *Changes) run() {
	for range c.wake {
		c.mu.Lock()
		queue := c.queue
		c.queue = nil
		subs := make([]func(Change), 0, len(c.subs))
		for _, f := range c.subs {
			subs = append(subs, f)
		}
		c.mu.Unlock()
		for _, x := range queue {
			for _, f := range subs {
				f(x)
			}
		}
	}
}

// Put queues a change.
func (c *Changes) Put(x Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.queue = append(c.queue, x)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Subscribe has f called with each change from now on, until cancel.
func (c *Changes) Subscribe(f func(Change)) (cancel func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.next
	c.next++
	c.subs[id] = f
	return func() {
		c.mu.Lock()
		delete(c.subs, id)
		c.mu.Unlock()
	}
}

// Close ends it. What was put before is still handed out.
func (c *Changes) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.wake)
	}
}
