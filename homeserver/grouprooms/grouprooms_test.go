package grouprooms_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver"
	"holdfast/homeserver/grouprooms"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/store"
)

type obj = hstest.Obj

// groups stand in for identity's.
type groups struct {
	mu sync.Mutex
	m  map[string]map[string]bool
}

func (g *groups) GroupMembers(_ store.Querier, id string) ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.m[id])), nil
}

func (g *groups) GroupName(_ store.Querier, id string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.m[id] == nil {
		return "", store.ErrNotFound
	}
	return "name of " + id, nil
}

type rig struct {
	*hstest.HS
	t *testing.T
	g *groups
	n int
}

func start(t *testing.T) *rig {
	g := &groups{m: map[string]map[string]bool{}}
	return &rig{HS: hstest.New(t, func(o *homeserver.Options) { o.Groups = g }), t: t, g: g}
}

// set puts people into a group, or takes them out.
func (r *rig) set(group string, in bool, who ...*hstest.Client) {
	r.g.mu.Lock()
	if r.g.m[group] == nil {
		r.g.m[group] = map[string]bool{}
	}
	for _, c := range who {
		if in {
			r.g.m[group][c.UserID] = true
		} else {
			delete(r.g.m[group], c.UserID)
		}
	}
	r.g.mu.Unlock()
	r.GroupRooms.Changed(group)
}

func (r *rig) rule(rule grouprooms.Rule) {
	r.t.Helper()
	if _, err := r.GroupRooms.Set(context.Background(), rule); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) status(group, room string) grouprooms.Status {
	r.t.Helper()
	list, err := r.GroupRooms.List(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range list {
		if s.GroupID == group && s.RoomID == room {
			return s
		}
	}
	return grouprooms.Status{}
}

// until waits for what the rules do.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			list, _ := r.GroupRooms.List(context.Background())
			r.t.Fatalf("not in a minute: %s; %+v", what, list)
		}
	}
}

// settle waits until what changed before was dealt with in a room: somebody new, whose
// turn comes after all others', is in it, and out again.
func (r *rig) settle(room, group string) {
	r.t.Helper()
	r.n++
	last := r.Login(r.t, fmt.Sprintf("zz%d", r.n))
	r.set(group, true, last)
	r.until("the last one is in", func() bool { return r.membership(room, last) == mx.Join })
	r.set(group, false, last)
	r.until("the last one is out, or stays", func() bool {
		st := r.status(group, room)
		return r.membership(room, last) == mx.Leave || st.TakeOut == grouprooms.Stay
	})
}

func (r *rig) membership(room string, c *hstest.Client) (m string) {
	r.t.Helper()
	err := r.DB.Read(context.Background(), func(q store.Querier) (err error) {
		m, err = r.Rooms.Membership(q, room, c.UserID)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *rig) state(room, typ, key string) (content string) {
	r.t.Helper()
	err := r.DB.Read(context.Background(), func(q store.Querier) error {
		e, err := r.Rooms.State(q, room, typ, key)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			content = string(e.Content)
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return content
}

// levels are the power levels of a room's users.
func (r *rig) levels(room string) map[string]int {
	r.t.Helper()
	var pl struct {
		Users map[string]int `json:"users"`
	}
	if err := json.Unmarshal([]byte(r.state(room, mx.RoomPowerLevels, "")), &pl); err != nil {
		r.t.Fatal(err)
	}
	return pl.Users
}

func (r *rig) is(room string, c *hstest.Client, want string) {
	r.t.Helper()
	if got := r.membership(room, c); got != want {
		r.t.Errorf("%s is %q in the room, not %q", c.UserID, got, want)
	}
}

// Who is in the group is put into a room that takes invited people only, with a power
// level, and sees it in /sync, as do those who are there; who leaves the group is out,
// and has no level any more. Who was in before stays.
func TestPeopleFollowTheGroup(t *testing.T) {
	for _, version := range []string{"9", "10", "11", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			r := start(t)
			owner, anna, bert, carl := r.Login(t, "owner"), r.Login(t, "anna"), r.Login(t, "bert"), r.Login(t, "carl")
			room := owner.CreateRoom(obj{"room_version": version, "preset": "private_chat"})
			owner.Invite(room, carl)
			carl.Join(room)
			before := r.levels(room)
			since := owner.Sync().At("next_batch").String()
			annas := anna.Sync().At("next_batch").String()
			r.set("g", true, anna, bert, carl)
			r.rule(grouprooms.Rule{GroupID: "g", RoomID: room, Level: 50, TakeOut: grouprooms.Placed})
			r.until("all are in", func() bool { s := r.status("g", room); return s.In == 3 && s.Waiting == 0 })
			v := owner.SyncFrom(since)
			for _, c := range []*hstest.Client{anna, bert} {
				r.is(room, c, mx.Join)
				if !strings.Contains(v.Joined(room).At("timeline").Text(), `"state_key":"`+c.UserID+`"`) {
					t.Errorf("%s is not seen to join", c.UserID)
				}
				if !strings.Contains(v.At("device_lists", "changed").Text(), c.UserID) {
					t.Errorf("the devices of %s are not to be fetched: %s", c.UserID, v.At("device_lists").Text())
				}
			}
			if !strings.Contains(r.state(room, mx.RoomMember, anna.UserID), "decision of this server's administrators") {
				t.Error("the event does not say why")
			}
			w := anna.SyncFrom(annas)
			if !strings.Contains(w.Joined(room).Text(), `"users":`) || !strings.Contains(w.At("device_lists", "changed").Text(), owner.UserID) {
				t.Errorf("who was put in does not see the room, or need not fetch the owner's devices: %s", w.Text())
			}
			got := r.levels(room)
			for _, c := range []*hstest.Client{anna, bert, carl} {
				if got[c.UserID] != 50 {
					t.Errorf("the levels are %v", got)
				}
			}
			since = owner.Sync().At("next_batch").String()
			r.set("g", false, anna, carl)
			r.until("anna is out", func() bool { return r.membership(room, anna) == mx.Leave })
			r.settle(room, "g")
			r.is(room, carl, mx.Join)
			r.is(room, bert, mx.Join)
			if v := owner.SyncFrom(since); !strings.Contains(v.At("device_lists", "left").Text(), anna.UserID) {
				t.Errorf("the devices of who left are still followed: %s", v.At("device_lists").Text())
			}
			before[bert.UserID] = 50
			if got := r.levels(room); !maps.Equal(got, before) {
				t.Errorf("the levels are %v, not %v", got, before)
			}
			if v := anna.SyncFrom(annas); !strings.Contains(v.At("rooms", "leave", room).Text(), "not any more in a group") {
				t.Errorf("who is out is not told why: %s", v.Text())
			}
		})
	}
}

// What people decided by hand stays: levels that are as high or were changed since, those
// of others, and that somebody left. A rule that says so takes out whoever was in before.
func TestHandsStay(t *testing.T) {
	r := start(t)
	owner, anna, bert, carl, dora, other := r.Login(t, "owner"), r.Login(t, "anna"), r.Login(t, "bert"), r.Login(t, "carl"), r.Login(t, "dora"), r.Login(t, "other")
	room := owner.CreateRoom(obj{"preset": "public_chat"})
	levels := func(users obj) {
		users[owner.UserID] = 100
		owner.SendState(room, mx.RoomPowerLevels, "", obj{"users": users})
	}
	carl.Join(room)
	other.Join(room)
	levels(obj{carl.UserID: 75, dora.UserID: 10, other.UserID: 20})
	r.set("g", true, anna, bert, carl, dora)
	r.rule(grouprooms.Rule{GroupID: "g", RoomID: room, Level: 50, TakeOut: grouprooms.Placed})
	r.until("all are in", func() bool { return r.status("g", room).In == 4 })
	want := map[string]int{owner.UserID: 100, anna.UserID: 50, bert.UserID: 50, carl.UserID: 75, dora.UserID: 50, other.UserID: 20}
	r.until("levels", func() bool { return maps.Equal(r.levels(room), want) })

	levels(obj{anna.UserID: 0, bert.UserID: 60, carl.UserID: 75, dora.UserID: 50, other.UserID: 20})
	bert.Leave(room)
	r.settle(room, "g")
	want[anna.UserID], want[bert.UserID] = 0, 60
	if got := r.levels(room); !maps.Equal(got, want) {
		t.Errorf("the levels are %v, not %v", got, want)
	}
	r.is(room, bert, mx.Leave)
	if s := r.status("g", room); s.Left != 1 || s.In != 3 {
		t.Errorf("%+v", s)
	}
	if err := r.GroupRooms.Apply(context.Background(), "g", room); err != nil {
		t.Fatal(err)
	}
	r.until("bert is in again", func() bool { return r.membership(room, bert) == mx.Join })

	r.set("g", false, anna, bert, carl, dora)
	r.until("who was put in is out", func() bool { return r.membership(room, anna) == mx.Leave && r.membership(room, dora) == mx.Leave })
	r.settle(room, "g")
	r.is(room, carl, mx.Join)
	want[dora.UserID] = 10 // the one before
	if got := r.levels(room); !maps.Equal(got, want) {
		t.Errorf("the levels are %v, not %v", got, want)
	}
	r.rule(grouprooms.Rule{GroupID: "g", RoomID: room, TakeOut: grouprooms.All})
	r.set("g", true, carl)
	r.settle(room, "g")
	r.set("g", false, carl)
	r.until("carl is out", func() bool { return r.membership(room, carl) == mx.Leave })
	r.is(room, other, mx.Join)
}

// What a room's rules allow nobody is told, and done once they allow it.
func TestTrouble(t *testing.T) {
	r := start(t)
	ctx := context.Background()
	owner, anna, bert, mod := r.Login(t, "owner"), r.Login(t, "anna"), r.Login(t, "bert"), r.Login(t, "mod")
	room := owner.CreateRoom(obj{"preset": "private_chat", "power_level_content_override": obj{"invite": 60}})
	for _, c := range []*hstest.Client{mod, bert} {
		owner.Invite(room, c)
		c.Join(room)
	}
	owner.Must("POST", hstest.Room(room)+"/ban", obj{"user_id": bert.UserID})
	owner.SendState(room, mx.RoomPowerLevels, "", obj{"invite": 60, "users": obj{owner.UserID: 100, mod.UserID: 50}})
	owner.Leave(room)
	r.set("g", true, anna, bert, mod)
	r.rule(grouprooms.Rule{GroupID: "g", RoomID: room, Level: 70})
	r.until("the troubles are told", func() bool {
		s := r.status("g", room)
		text := strings.Join(s.Troubles, "\n")
		return s.Waiting == 2 && s.In == 1 && strings.Contains(text, "Banned") && strings.Contains(text, "may invite others") && strings.Contains(text, "power to give")
	})
	// The moderator lets everybody in.
	mod.SendState(room, mx.RoomJoinRules, "", obj{"join_rule": "public"})
	r.rule(grouprooms.Rule{GroupID: "g", RoomID: room, Level: 40})
	r.until("it is done", func() bool {
		s := r.status("g", room)
		return s.Waiting == 1 && s.In == 2 && len(s.Troubles) == 1 && r.levels(room)[anna.UserID] == 40
	})

	for _, x := range []struct {
		rule grouprooms.Rule
		want error
	}{
		{grouprooms.Rule{GroupID: "none", RoomID: room}, store.ErrNotFound},
		{grouprooms.Rule{GroupID: "g", RoomID: room, Level: 101}, grouprooms.ErrLevel},
		{grouprooms.Rule{GroupID: "g", RoomID: room, Level: -1}, grouprooms.ErrLevel},
		{grouprooms.Rule{GroupID: "g", RoomID: room, Rooms: true}, grouprooms.ErrSpace},
	} {
		if _, err := r.GroupRooms.Set(ctx, x.rule); !errors.Is(err, x.want) {
			t.Errorf("%+v: %v", x.rule, err)
		}
	}
	for _, id := range []string{"!nowhere:hs.test", "#nothing:hs.test", "no room"} {
		var refused *mx.Error
		if _, err := r.GroupRooms.Set(ctx, grouprooms.Rule{GroupID: "g", RoomID: id}); !errors.As(err, &refused) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := r.GroupRooms.Remove(ctx, "g", "!nowhere:hs.test", false); !errors.Is(err, grouprooms.ErrNoRule) {
		t.Error(err)
	}
	if err := r.GroupRooms.Apply(ctx, "other", room); !errors.Is(err, grouprooms.ErrNoRule) {
		t.Error(err)
	}
}

// A rule ends: its people stay without the level, or are out. With a group its rules go,
// as if all had left it.
func TestRulesEnd(t *testing.T) {
	r := start(t)
	ctx := context.Background()
	owner, anna, bert := r.Login(t, "owner"), r.Login(t, "anna"), r.Login(t, "bert")
	room, second, third := owner.CreateRoom(nil), owner.CreateRoom(nil), owner.CreateRoom(nil)
	r.set("g", true, anna, bert)
	r.set("h", true, bert)
	for _, id := range []string{room, second, third} {
		r.rule(grouprooms.Rule{GroupID: "g", RoomID: id, Level: 30, TakeOut: grouprooms.Placed})
	}
	r.rule(grouprooms.Rule{GroupID: "h", RoomID: second, Level: 20})
	r.until("both are in all", func() bool {
		return r.status("g", room).In == 2 && r.status("g", second).In == 2 && r.status("g", third).In == 2
	})
	if got := r.levels(second); got[bert.UserID] != 30 {
		t.Errorf("of two levels not the higher: %v", got)
	}
	if err := r.GroupRooms.Remove(ctx, "g", room, false); err != nil {
		t.Fatal(err)
	}
	r.until("no levels", func() bool { return len(r.levels(room)) == 1 })
	r.is(room, anna, mx.Join)
	if err := r.GroupRooms.Remove(ctx, "g", second, true); err != nil {
		t.Fatal(err)
	}
	r.until("anna is out", func() bool { return r.membership(second, anna) == mx.Leave })
	r.until("bert has the other group's level", func() bool { return r.levels(second)[bert.UserID] == 20 })
	r.is(second, bert, mx.Join)

	r.g.mu.Lock()
	delete(r.g.m, "g")
	r.g.mu.Unlock()
	r.GroupRooms.Changed("g")
	r.until("all of the group are out", func() bool {
		return r.membership(third, anna) == mx.Leave && r.membership(third, bert) == mx.Leave
	})
	r.until("the rule is gone", func() bool {
		return errors.Is(r.GroupRooms.Apply(ctx, "g", third), grouprooms.ErrNoRule)
	})
}

// The rooms of a space are those that agree: which name it as their parent, or let its
// people in; and only the former give the level.
func TestSpace(t *testing.T) {
	r := start(t)
	owner, boss, anna := r.Login(t, "owner"), r.Login(t, "boss"), r.Login(t, "anna")
	space := owner.CreateRoom(obj{"creation_content": obj{"type": "m.space"}, "preset": "private_chat"})
	child := func(of string, by *hstest.Client, o obj, parent bool) string {
		id := by.CreateRoom(o)
		if parent {
			by.SendState(id, mx.SpaceParent, of, obj{"via": []string{hstest.Server}, "canonical": true})
		}
		owner.SendState(of, mx.SpaceChild, id, obj{"via": []string{hstest.Server}})
		return id
	}
	own := child(space, owner, obj{"preset": "private_chat"}, true)
	sub := child(space, owner, obj{"preset": "private_chat", "creation_content": obj{"type": "m.space"}}, true)
	deep := child(sub, owner, obj{"preset": "private_chat"}, true)
	open := child(space, boss, obj{"preset": "public_chat"}, false)
	restricted := child(space, boss, obj{"preset": "private_chat", "initial_state": []obj{{"type": mx.RoomJoinRules, "state_key": "",
		"content": obj{"join_rule": "restricted", "allow": []obj{{"type": "m.room_membership", "room_id": space}}}}}}, false)
	secret := child(space, boss, obj{"preset": "private_chat"}, false)
	r.set("g", true, anna)
	r.rule(grouprooms.Rule{GroupID: "g", RoomID: space, Rooms: true, Level: 50, TakeOut: grouprooms.Placed})
	all := []string{space, own, sub, deep, open, restricted}
	r.until("she is in all that agree", func() bool {
		return !slices.ContainsFunc(all, func(id string) bool { return r.membership(id, anna) != mx.Join })
	})
	if s := r.status("g", space); s.InRooms != len(all) || !s.Space {
		t.Errorf("%+v", s)
	}
	for _, id := range all {
		want := 50
		if id == open || id == restricted {
			want = 0
		}
		if got := r.levels(id)[anna.UserID]; got != want {
			t.Errorf("%s: the level is %d, not %d", id, got, want)
		}
	}
	// One more comes, one goes.
	later := child(space, owner, obj{"preset": "private_chat"}, true)
	r.until("she is in the one that came", func() bool { return r.membership(later, anna) == mx.Join })
	owner.SendState(space, mx.SpaceChild, own, obj{})
	r.until("she is out of the one that went", func() bool { return r.membership(own, anna) == mx.Leave })
	r.is(secret, anna, "")
	r.set("g", false, anna)
	r.until("she is out of all", func() bool {
		return !slices.ContainsFunc(append(all, later), func(id string) bool { return r.membership(id, anna) == mx.Join })
	})
}

// A rule follows its room when that is replaced.
func TestUpgrade(t *testing.T) {
	r := start(t)
	owner, anna := r.Login(t, "owner"), r.Login(t, "anna")
	room := owner.CreateRoom(obj{"preset": "private_chat"})
	r.set("g", true, anna)
	r.rule(grouprooms.Rule{GroupID: "g", RoomID: room, Level: 50, TakeOut: grouprooms.Placed})
	r.until("she is in", func() bool { return r.status("g", room).In == 1 })
	next := owner.Must("POST", hstest.Room(room)+"/upgrade", obj{"new_version": "11"}).At("replacement_room").String()
	r.until("she is in the new one", func() bool { return r.status("g", next).In == 1 && r.membership(next, anna) == mx.Join })
	if s := r.status("g", room); s.GroupID != "" {
		t.Errorf("there are two rules: %+v", s)
	}
	r.is(room, anna, mx.Join)
	r.set("g", false, anna)
	r.until("she is out", func() bool { return r.membership(next, anna) == mx.Leave })
	if got := r.levels(next); got[anna.UserID] != 0 {
		t.Errorf("the level that came with the room is still there: %v", got)
	}
}

// Many people are put into rooms; the server stops in between and goes on. Nobody is put
// in twice, and one who comes meanwhile need not wait for all others.
func TestManyAndAStop(t *testing.T) {
	r := start(t)
	owner := r.Login(t, "owner")
	var people []*hstest.Client
	for i := range 120 {
		people = append(people, r.Login(t, fmt.Sprintf("p%03d", i)))
	}
	rooms := []string{owner.CreateRoom(nil), owner.CreateRoom(nil)}
	r.set("g", true, people...)
	for _, id := range rooms {
		r.rule(grouprooms.Rule{GroupID: "g", RoomID: id, TakeOut: grouprooms.Placed})
	}
	r.until("some are in", func() bool { return r.status("g", rooms[0]).In > 0 })
	r.Restart()
	r.until("all are in", func() bool { return r.status("g", rooms[0]).In == 120 && r.status("g", rooms[1]).In == 120 })
	joins := 0
	for _, e := range owner.Must("GET", hstest.Room(rooms[0])+"/messages?dir=b&limit=1000", nil).At("chunk").List() {
		if e.At("type").String() == mx.RoomMember && e.At("content", "membership").String() == mx.Join {
			joins++
		}
	}
	if joins != 121 {
		t.Errorf("%d joins", joins)
	}
	r.set("g", false, people...)
	r.until("all are out", func() bool {
		for _, id := range rooms {
			if r.status("g", id).People != 0 || slices.ContainsFunc(people, func(c *hstest.Client) bool { return r.membership(id, c) != mx.Leave }) {
				return false
			}
		}
		return true
	})
}
