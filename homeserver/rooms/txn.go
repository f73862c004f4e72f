package rooms

import "sync"

// txnKey is what makes a request the same as one before: the device, its
// transaction ID, and where it was sent. Spec: cs#transaction-identifiers
type txnKey struct{ user, device, txn, room, typ string }

type txnResult struct {
	done chan struct{}
	id   string
	err  error
}

// txnCache answers repeated requests that came lately, also while the first is
// still being worked on. Older ones are found in the database.
type txnCache struct {
	mu   sync.Mutex
	m    map[txnKey]*txnResult
	ring []txnKey
	next int
}

const maxTxns = 4096

func (c *txnCache) init() { c.m, c.ring = map[txnKey]*txnResult{}, make([]txnKey, maxTxns) }

// begin tells whether the caller is the first (mine) and must call end.
func (c *txnCache) begin(k txnKey) (t *txnResult, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.m[k]; t != nil {
		return t, false
	}
	t = &txnResult{done: make(chan struct{})}
	if old := c.ring[c.next]; old != (txnKey{}) {
		delete(c.m, old)
	}
	c.ring[c.next], c.m[k] = k, t
	c.next = (c.next + 1) % len(c.ring)
	return t, true
}

// end keeps the answer. A failure is forgotten, so that it can be tried again.
func (c *txnCache) end(k txnKey, t *txnResult, id string, err error) {
	t.id, t.err = id, err
	close(t.done)
	if err != nil {
		c.mu.Lock()
		if c.m[k] == t {
			delete(c.m, k)
		}
		c.mu.Unlock()
	}
}
