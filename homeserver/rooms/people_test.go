package rooms_test

import (
	"testing"

	"holdfast/homeserver/hstest"
)

// Whom the user directory finds: those in a room of one's own, and those in a room
// that anybody may find, join or read; nobody else, and not those who left.
// Spec: cs#post_matrixclientv3user_directorysearch
func TestDirectoryVisibility(t *testing.T) {
	hs := hstest.New(t, nil)
	asker := hs.Login(t, "asker")
	in := map[string]*hstest.Client{}
	for name, o := range map[string]obj{
		"together":   {"preset": "private_chat", "invite": []string{asker.UserID}},
		"joinable":   {"preset": "public_chat"},
		"readable":   {"preset": "private_chat", "initial_state": []obj{{"type": "m.room.history_visibility", "state_key": "", "content": obj{"history_visibility": "world_readable"}}}},
		"listed":     {"preset": "private_chat", "visibility": "public"},
		"private":    {"preset": "private_chat"},
		"formerly":   {"preset": "public_chat"},
		"closed-now": {"preset": "public_chat"},
	} {
		c := hs.Login(t, "person-"+name)
		in[name] = c
		room := c.CreateRoom(o)
		switch name {
		case "together":
			asker.Join(room)
		case "formerly":
			c.Leave(room)
		case "closed-now":
			c.SendState(room, "m.room.join_rules", "", obj{"join_rule": "invite"})
		}
	}
	found := map[string]bool{}
	v := asker.Must("POST", "/user_directory/search", obj{"search_term": "person", "limit": 50})
	for _, p := range v.At("results").List() {
		found[p.At("user_id").String()] = true
	}
	for name, want := range map[string]bool{"together": true, "joinable": true, "readable": true, "listed": true, "private": false, "formerly": false, "closed-now": false} {
		if found[in[name].UserID] != want {
			t.Errorf("%s: found %v, want %v", name, found[in[name].UserID], want)
		}
	}
}
