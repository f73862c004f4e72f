package hstest

import (
	"fmt"
	"math/rand"
	"net/url"
	"testing"

	"holdfast/homeserver/mx"
)

var visibilities = []string{"joined", "invited", "shared", "world_readable"}

// Workload is people in rooms of every history visibility and some room versions.
type Workload struct {
	Clients []*Client
	Rooms   []string
}

// NewWorkload logs the people in and makes the rooms.
func NewWorkload(t testing.TB, hs *HS, users ...string) *Workload {
	t.Helper()
	w := &Workload{}
	for _, u := range users {
		w.Clients = append(w.Clients, hs.Login(t, u))
	}
	versions := []string{"10", "11", "12"}
	for i, v := range visibilities {
		w.Rooms = append(w.Rooms, w.Clients[i%len(users)].CreateRoom(Obj{"preset": "public_chat", "room_version": versions[i%len(versions)],
			"initial_state": []Obj{{"type": mx.RoomHistoryVisibility, "content": Obj{"history_visibility": v}}}}))
	}
	return w
}

// Act has somebody do something at random, the n-th act of all. Much of it is
// refused: that is part of it. Several goroutines may call it, each with its own rnd.
func (w *Workload) Act(rnd *rand.Rand, n int) {
	c, other := w.Clients[rnd.Intn(len(w.Clients))], w.Clients[rnd.Intn(len(w.Clients))]
	p := Room(w.Rooms[rnd.Intn(len(w.Rooms))])
	switch k := rnd.Intn(28); {
	case k < 9:
		c.Do("PUT", fmt.Sprintf("%s/send/m.room.message/a%d", p, n), Obj{"body": fmt.Sprint(n), "msgtype": "m.text"})
	case k < 10:
		c.Do("PUT", p+"/state/m.room.topic", Obj{"topic": fmt.Sprint(n)})
	case k < 11:
		c.Do("PUT", p+"/state/m.room.name", Obj{"name": []string{"", fmt.Sprint(n)}[rnd.Intn(2)]})
	case k < 12:
		c.Do("PUT", fmt.Sprintf("%s/state/m.test/%d", p, rnd.Intn(4)), Obj{"n": n})
	case k < 14:
		c.Do("POST", p+"/join", Obj{})
	case k < 15:
		c.Do("POST", p+"/leave", Obj{})
	case k < 16:
		c.Do("POST", p+"/invite", Obj{"user_id": other.UserID})
	case k < 17:
		c.Do("POST", p+"/kick", Obj{"user_id": other.UserID})
	case k < 18:
		c.Do("PUT", p+"/state/m.room.history_visibility", Obj{"history_visibility": visibilities[rnd.Intn(4)]})
	case k < 19:
		c.Do("PUT", "/profile/"+c.UserID+"/displayname", Obj{"displayname": fmt.Sprint("name ", n)})
	case k < 25:
		w.thread(rnd, c, other, p, n)
	default:
		m := c.Do("GET", p+"/messages?dir=b&limit=4", nil)
		if l := m.JSON.At("chunk").List(); len(l) > 0 {
			typ := []string{"m.read", "m.read.private"}[rnd.Intn(2)]
			c.Do("POST", p+"/receipt/"+typ+"/"+url.PathEscape(l[rnd.Intn(len(l))].At("event_id").String()), Obj{})
		}
	}
}

// thread has somebody say something in a thread, or subscribe to it or unsubscribe.
func (w *Workload) thread(rnd *rand.Rand, c, other *Client, p string, n int) {
	l := c.Do("GET", p+"/messages?dir=b&limit=8", nil).JSON.At("chunk").List()
	if len(l) == 0 {
		return
	}
	e := l[rnd.Intn(len(l))]
	id := e.At("event_id").String()
	root := id
	if e.At("content", "m.relates_to", "rel_type").String() == mx.RelThread {
		root = e.At("content", "m.relates_to", "event_id").String()
	}
	at := "/_matrix/client/unstable/io.element.msc4306" + p + "/thread/" + url.PathEscape(root) + "/subscription"
	switch rnd.Intn(6) {
	case 0:
		c.Do("PUT", at, Obj{})
	case 1:
		c.Do("PUT", at, Obj{"automatic": id})
	case 2:
		c.Do("DELETE", at, nil)
	default:
		c.Do("PUT", fmt.Sprintf("%s/send/m.room.message/t%d", p, n), Obj{"body": fmt.Sprint(n), "msgtype": "m.text", "m.mentions": Obj{"user_ids": []string{other.UserID}[:rnd.Intn(2)]},
			"m.relates_to": Obj{"rel_type": mx.RelThread, "event_id": root}})
	}
}
