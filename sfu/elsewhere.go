package sfu

import (
	"context"
	"time"

	"github.com/livekit/protocol/livekit"
)

// How calls on other relays are is asked for by notes, and only while somebody looks: a
// node then tells every watchEvery, for watchedFor, what it knows of all of its calls, and
// of the people in the calls that are looked at.
const (
	figuresFor  = 4 * watchEvery // figures that are older are not shown
	figuresTime = time.Second    // for the first ones to come
	maxLooked   = 100            // calls that are looked at, of which the people are told
)

// noticed notes, at a node, that somebody looks at a room, or ("") at all.
func (c *cluster) noticed(room string) {
	now := time.Now()
	c.mu.Lock()
	for r, at := range c.looked {
		if now.Sub(at) > watchedFor {
			delete(c.looked, r)
		}
	}
	_, known := c.looked[room]
	if known || len(c.looked) < maxLooked {
		c.looked[room] = now
	}
	c.mu.Unlock()
	if !known {
		select {
		case c.kick <- struct{}{}:
		default:
		}
	}
}

// show tells of a node's calls, while somebody looks.
func (c *cluster) show() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.kick:
		case <-c.done:
			return
		}
		var rooms []string
		c.mu.Lock()
		for room, at := range c.looked {
			if time.Since(at) <= watchedFor {
				rooms = append(rooms, room)
			}
		}
		c.mu.Unlock()
		if len(rooms) == 0 {
			continue
		}
		calls, err := c.s.Calls(context.Background(), "")
		if err != nil { // it stops
			continue
		}
		people := map[string]Call{}
		for _, room := range rooms {
			if room == "" {
				continue
			}
			if one, err := c.s.Calls(context.Background(), room); err == nil {
				people[room] = one[0]
			}
		}
		for i := range calls {
			if one, ok := people[calls[i].Room]; ok {
				calls[i] = one
			}
		}
		c.send(note{Kind: noteCalls, Node: string(c.self), Calls: calls})
	}
}

// shown keeps what a node said of its calls.
func (c *cluster) shown(n note) {
	id := livekit.NodeID(n.Node)
	f := nodeCalls{time.Now(), make(map[string]Call, len(n.Calls))}
	for _, call := range n.Calls {
		f.calls[call.Room] = call
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes[id] == nil {
		return
	}
	c.figures[id] = f
	close(c.news)
	c.news = make(chan struct{})
}

// calls is what the nodes say of their calls, or of the one that is named and the people
// in it. It waits a moment where nothing is known yet. Of a call that its node said
// nothing of, there is the node's name alone.
func (c *cluster) calls(ctx context.Context, room string) map[string]Call {
	c.mu.Lock()
	wanted := map[livekit.NodeID]bool{}
	for name, h := range c.rooms {
		if (room == "" || name == room) && h.node != c.self && c.nodes[h.node] != nil {
			wanted[h.node] = true
		}
	}
	trouble := c.trouble
	c.mu.Unlock()
	if len(wanted) == 0 {
		return nil
	}
	if trouble == nil {
		c.send(note{Kind: noteLook, Room: room})
	}
	ctx, cancel := context.WithTimeout(ctx, figuresTime)
	defer cancel()
	for {
		out, missing := map[string]Call{}, false
		c.mu.Lock()
		for id := range wanted {
			fresh := time.Since(c.figures[id].at) <= figuresFor
			missing = missing || !fresh
			for name, h := range c.rooms {
				if h.node != id || room != "" && name != room {
					continue
				}
				call := Call{Room: name}
				if got, ok := c.figures[id].calls[name]; ok && fresh {
					call = got
				}
				missing = missing || room != "" && len(call.People) == 0
				if room == "" {
					call.People = nil
				}
				if m := c.nodes[id]; m != nil {
					call.Node = m.Name
				}
				out[name] = call
			}
		}
		news := c.news
		c.mu.Unlock()
		if !missing || trouble != nil {
			return out
		}
		select {
		case <-news:
		case <-ctx.Done():
			return out
		}
	}
}
