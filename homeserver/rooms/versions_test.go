package rooms_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// TestEveryVersion lives in a room of each version, over a restart, and upgrades it
// to each other one.
func TestEveryVersion(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	dave := hs.Login(t, "dave")
	all := map[pdu.Version]string{}
	said := map[string]string{}
	for _, v := range pdu.Versions {
		id := alice.CreateRoom(obj{"room_version": v, "preset": "public_chat", "name": "V" + v, "room_alias_name": "v" + v, "invite": []string{bob.UserID},
			"power_level_content_override": obj{"events": obj{mx.RoomTopic: 30}}})
		all[v] = id
		bob.Join(id)
		carol.Join(id)
		said[id] = bob.Send(id, "to be taken back")
		bob.Redact(id, said[id])
		alice.Redact(id, carol.Send(id, "not allowed"))
		carol.Fails(403, mx.Forbidden, "PUT", hstest.Room(id)+"/redact/"+url.PathEscape(bob.Send(id, "stays"))+"/"+hstest.Txn(), obj{})
		alice.Must("POST", hstest.Room(id)+"/ban", obj{"user_id": dave.UserID, "reason": "spam"})
		if v.AtLeast(7) {
			alice.SendState(id, mx.RoomJoinRules, "", obj{"join_rule": "knock"})
		} else {
			dave.Fails(403, mx.Forbidden, "POST", "/knock/"+url.PathEscape(id), obj{})
		}
		checkChain(t, hs, id)
	}
	hs.Restart()
	for _, v := range pdu.Versions {
		id := all[v]
		carol.Send(id, "after the restart")
		bob.Leave(id)
		checkChain(t, hs, id)
		e := alice.Must("GET", hstest.Room(id)+"/event/"+url.PathEscape(said[id]), nil)
		if len(e.At("content").Keys()) != 0 || e.At("unsigned", "redacted_because", "sender").String() != bob.UserID {
			t.Errorf("version %s: a redacted event is %s", v, e.Text())
		}
		// What the version keeps of a power levels event: "invite" from 11 on.
		pl := alice.SendState(id, mx.RoomPowerLevels, "", alice.Must("GET", hstest.Room(id)+"/state/m.room.power_levels", nil).V.(obj))
		alice.Redact(id, pl)
		left := alice.Must("GET", hstest.Room(id)+"/state/m.room.power_levels", nil)
		if left.Exists("invite") != v.AtLeast(11) || left.At("ban").Int() != 50 || left.Exists("historical") {
			t.Errorf("version %s: of redacted power levels is left %s", v, left.Text())
		}
	}
	for i, v := range pdu.Versions {
		to := pdu.Versions[(i+5)%len(pdu.Versions)]
		next := alice.Must("POST", hstest.Room(all[v])+"/upgrade", obj{"new_version": to}).At("replacement_room").String()
		checkChain(t, hs, next)
		state := alice.Must("GET", hstest.Room(next)+"/state", nil).List()
		ban := hstest.Find(state, mx.RoomMember, dave.UserID).At("content")
		if ban.At("membership").String() != mx.Ban || ban.At("reason").String() != "spam" {
			t.Errorf("%s to %s: the ban became %s", v, to, ban.Text())
		}
		pl := hstest.Find(state, mx.RoomPowerLevels, "").At("content")
		if to == pdu.V12 {
			if pl.At("users").Exists(alice.UserID) || pl.At("events", mx.RoomTombstone).Int() <= pl.At("state_default").Int() {
				t.Errorf("%s to %s: power levels %s", v, to, pl.Text())
			}
		} else if pl.At("users", alice.UserID).Int() < 100 {
			t.Errorf("%s to %s: power levels %s", v, to, pl.Text())
		}
		if n := alice.Must("GET", hstest.Room(next)+"/state/m.room.canonical_alias", nil).At("alias").String(); n != "#v"+string(v)+":example.org" {
			t.Errorf("%s to %s: canonical alias %s", v, to, n)
		}
		alice.SendState(next, mx.RoomTombstone, "", obj{"body": "the power to upgrade again", "replacement_room": all[v]})
	}
}

// TestUpgradeByModerator: who may send a tombstone can upgrade, though the new room
// needs more power to set up than they have, and has no more in it afterwards.
func TestUpgradeByModerator(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	for _, to := range []pdu.Version{pdu.V9, pdu.V11, pdu.V12} {
		name := "moderated" + string(to)
		room := alice.CreateRoom(obj{"preset": "public_chat", "room_version": "9", "name": "Moderated", "room_alias_name": name,
			"initial_state":                []obj{{"type": mx.RoomServerACL, "content": obj{"allow": []string{"*"}}}},
			"power_level_content_override": obj{"users": obj{alice.UserID: 100, bob.UserID: "60"}, "kick": "55", "ban": 90, "events": obj{mx.RoomTombstone: 60, mx.RoomServerACL: 100, mx.RoomPowerLevels: 100}}})
		bob.Join(room)
		alice.Must("POST", hstest.Room(room)+"/ban", obj{"user_id": carol.UserID})
		next := bob.Must("POST", hstest.Room(room)+"/upgrade", obj{"new_version": to}).At("replacement_room").String()
		checkChain(t, hs, next)
		pl := bob.Must("GET", hstest.Room(next)+"/state/m.room.power_levels", nil)
		if to != pdu.V12 {
			want := any(60.0)
			if !to.AtLeast(10) {
				want = "60"
			}
			if pl.At("users", bob.UserID).V != want || pl.At("users", alice.UserID).Int() != 100 {
				t.Errorf("to %s: power levels %s", to, pl.Text())
			}
			bob.Fails(403, mx.Forbidden, "PUT", hstest.Room(next)+"/state/m.room.server_acl", obj{"allow": []string{"*"}, "deny": []string{"x.example"}})
		}
		if to.AtLeast(10) && pl.At("kick").V != 55.0 {
			t.Errorf("to %s: kick is %v", to, pl.At("kick").V)
		}
		bob.Must("GET", hstest.Room(next)+"/state/m.room.server_acl", nil)
		if got := bob.Must("GET", hstest.Room(next)+"/state/m.room.member/"+url.PathEscape(carol.UserID), nil).At("membership").String(); got != mx.Ban {
			t.Errorf("to %s: carol is %s", to, got)
		}
		if got := bob.Must("GET", "/directory/room/"+url.PathEscape("#"+name+":example.org"), nil).At("room_id").String(); got != next {
			t.Errorf("to %s: the alias leads to %s", to, got)
		}
		bob.Must("GET", hstest.Room(room)+"/state/m.room.tombstone", nil)
	}
}

// TestUpgradeFrom12: creators have no level in version 12, and the highest in an
// older one; additional creators go along only where they are named.
func TestUpgradeFrom12(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"room_version": "12", "preset": "trusted_private_chat", "invite": []string{bob.UserID}, "creation_content": obj{"type": "m.space"}})
	bob.Join(room)
	again := alice.Must("POST", hstest.Room(room)+"/upgrade", obj{"new_version": "12"}).At("replacement_room").String()
	create := alice.Must("GET", hstest.Room(again)+"/state/m.room.create", nil)
	if create.Exists("additional_creators") || create.At("type").String() != "m.space" {
		t.Errorf("create: %s", create.Text())
	}
	named := alice.Must("POST", hstest.Room(again)+"/upgrade", obj{"new_version": "12", "additional_creators": []string{bob.UserID}}).At("replacement_room").String()
	if got := alice.Must("GET", hstest.Room(named)+"/state/m.room.create", nil).At("additional_creators", "0").String(); got != bob.UserID {
		t.Errorf("additional creator %q", got)
	}
	old := alice.Must("POST", hstest.Room(named)+"/upgrade", obj{"new_version": "11", "additional_creators": []string{bob.UserID}}).At("replacement_room").String()
	if alice.Must("GET", hstest.Room(old)+"/state/m.room.create", nil).Exists("additional_creators") {
		t.Error("version 11 has no additional creators")
	}
	users := alice.Must("GET", hstest.Room(old)+"/state/m.room.power_levels", nil).At("users")
	if users.At(alice.UserID).Int() != 150 || users.At(bob.UserID).Int() != 150 {
		t.Errorf("users: %s", users.Text())
	}
	checkChain(t, hs, old)
	alice.Fails(400, mx.InvalidRoomState, "POST", hstest.Room(old)+"/upgrade", obj{"new_version": "12", "additional_creators": []string{"nobody"}})
	alice.Fails(400, mx.MissingParam, "POST", hstest.Room(old)+"/upgrade", obj{})
}

func TestDefaultVersion(t *testing.T) {
	for set, want := range map[string]string{"": "11", "12": "12", "6": "6", "nonsense": "11"} {
		hs := hstest.New(t, func(o *homeserver.Options) { o.RoomVersion = set })
		alice := hs.Login(t, "alice")
		got := alice.Must("GET", hstest.Room(alice.CreateRoom(nil))+"/state/m.room.create", nil).At("room_version").String()
		caps := alice.Must("GET", "/capabilities", nil).At("capabilities", "m.room_versions")
		if got != want || caps.At("default").String() != want || len(caps.At("available").Keys()) != 12 {
			t.Errorf("set to %q: rooms of version %s, capabilities %s", set, got, caps.Text())
		}
	}
}

// TestInvitesBlocked. Spec: cs#invite-permission
func TestInvitesBlocked(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	before, other := alice.CreateRoom(nil), alice.CreateRoom(nil)
	alice.Invite(before, bob)
	data := "/user/" + url.PathEscape(bob.UserID) + "/account_data/m.invite_permission_config"
	bob.Must("PUT", data, obj{"default_action": "block"})
	alice.Fails(403, mx.InviteBlocked, "POST", hstest.Room(other)+"/invite", obj{"user_id": bob.UserID})
	alice.Fails(403, mx.InviteBlocked, "POST", "/createRoom", obj{"invite": []string{bob.UserID}})
	alice.Fails(403, mx.InviteBlocked, "PUT", hstest.Room(other)+"/state/m.room.member/"+url.PathEscape(bob.UserID), obj{"membership": "invite"})
	if v := bob.Sync(); v.At("rooms").Exists("invite") {
		t.Errorf("an invitation is shown to who takes none: %s", v.At("rooms").Text())
	}
	bob.Must("PUT", data, obj{"default_action": "com.example.other"})
	alice.Invite(other, bob)
	bob.Since = ""
	if got := bob.Sync().At("rooms", "invite").Keys(); len(got) != 2 {
		t.Errorf("invitations after they are taken again: %v", got)
	}
	bob.Must("PUT", data, obj{"default_action": "block"})
	bob.Join(other) // those there are stay good
}

// TestPages turns the pages of the lists that have some.
func TestPages(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	var want []string
	space := alice.CreateRoom(obj{"preset": "public_chat", "creation_content": obj{"type": "m.space"}})
	for i := range 101 {
		id := alice.CreateRoom(obj{"preset": "public_chat"})
		want = append(want, id)
		bob.Join(id)
		if i < 7 {
			alice.SendState(space, "m.space.child", id, obj{"via": []string{hstest.Server}, "suggested": i%2 == 0, "order": string(rune('z' - i))})
		}
	}
	slices.Sort(want)
	var got []string
	for from := ""; ; {
		v := bob.Must("GET", "/_matrix/client/v1/mutual_rooms?user_id="+url.QueryEscape(alice.UserID)+"&from="+url.QueryEscape(from), nil)
		for _, id := range v.At("joined").List() {
			got = append(got, id.String())
		}
		if v.At("count").Int() != 101 {
			t.Errorf("count %d", v.At("count").Int())
		}
		if from = v.At("next_batch").String(); from == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d rooms in common, want %d", len(got), len(want))
	}
	path := "/_matrix/client/v1" + hstest.Room(space) + "/hierarchy?suggested_only=true&limit=2"
	pages, seen := 0, map[string]bool{}
	for from := ""; ; pages++ {
		q := ""
		if from != "" {
			q = "&from=" + url.QueryEscape(from)
			bob.Fails(400, mx.InvalidParam, "GET", path+q+"&max_depth=1", nil)
		}
		v := bob.Must("GET", path+q, nil)
		for _, r := range v.At("rooms").List() {
			if seen[r.At("room_id").String()] {
				t.Errorf("%s twice", r.At("room_id").String())
			}
			seen[r.At("room_id").String()] = true
		}
		if from = v.At("next_batch").String(); from == "" {
			break
		}
	}
	if len(seen) != 5 || pages != 2 { // the space and four that are suggested
		t.Errorf("%d rooms on %d pages", len(seen), pages+1)
	}
}

// TestThirdPartySigned joins by an invitation to an address, which an identity
// server signs.
func TestThirdPartySigned(t *testing.T) {
	valid := true
	var asked string
	identity := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query().Get("public_key")
		json.NewEncoder(w).Encode(map[string]bool{"valid": valid})
	}))
	defer identity.Close()
	_, private, _ := ed25519.GenerateKey(nil)
	_, wrong, _ := ed25519.GenerateKey(nil)
	public := pdu.Base64(private.Public().(ed25519.PublicKey))

	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(nil)
	alice.SendState(room, mx.RoomThirdPartyInvite, "plain", obj{"display_name": "b...", "public_key": public, "key_validity_url": ""})
	alice.SendState(room, mx.RoomThirdPartyInvite, "checked", obj{"display_name": "b...", "public_key": pdu.Base64(wrong.Public().(ed25519.PublicKey)),
		"public_keys": []obj{{"public_key": public, "key_validity_url": identity.URL}}})
	sign := func(user *hstest.Client, token, sender string, key ed25519.PrivateKey) obj {
		raw, _ := json.Marshal(obj{"mxid": user.UserID, "token": token, "sender": sender})
		signed, err := pdu.SignJSON(raw, pdu.SigningKey{ID: "ed25519:0", Server: "id.example", Private: key})
		if err != nil {
			t.Fatal(err)
		}
		return obj{"third_party_signed": json.RawMessage(signed)}
	}
	path := hstest.Room(room) + "/join"
	bob.Fails(403, mx.Forbidden, "POST", path, obj{})
	bob.Fails(403, mx.Forbidden, "POST", path, sign(bob, "none", alice.UserID, private))
	bob.Fails(403, mx.Forbidden, "POST", path, sign(bob, "plain", alice.UserID, wrong))
	bob.Fails(403, mx.Forbidden, "POST", path, sign(bob, "plain", carol.UserID, private))
	carol.Fails(403, mx.Forbidden, "POST", path, sign(bob, "plain", alice.UserID, private))
	for _, bad := range []any{"x", obj{}, obj{"mxid": bob.UserID}, obj{"mxid": 1, "token": 2, "sender": 3, "signatures": 4}} {
		bob.Fails(400, mx.BadJSON, "POST", path, obj{"third_party_signed": bad})
	}
	bob.Must("POST", path, sign(bob, "plain", alice.UserID, private))
	valid = false
	carol.Fails(403, mx.Forbidden, "POST", path, sign(carol, "checked", alice.UserID, private))
	valid = true
	carol.Must("POST", "/join/"+url.PathEscape(room), sign(carol, "checked", alice.UserID, private))
	if asked != public {
		t.Errorf("the identity server was asked about %q", asked)
	}
	checkChain(t, hs, room)
	// The invitation came first, and names the one by address.
	var kinds []string
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		list, err := hs.Rooms.MembershipHistory(q, room, carol.UserID)
		for _, c := range list {
			kinds = append(kinds, c.Membership)
		}
		return err
	})
	if err != nil || !slices.Equal(kinds, []string{mx.Invite, mx.Join}) {
		t.Errorf("memberships %v (%v)", kinds, err)
	}
	alice.Fails(400, mx.ThreepidNotFound, "POST", hstest.Room(room)+"/invite", obj{"id_server": "id.example", "id_access_token": "x", "medium": "email", "address": "x@example.org"})
}

// Where a room's ID is the hash of its first event, rooms that somebody makes at the same
// time with nothing to tell them apart are different rooms all the same.
func TestRoomsOfOneMillisecond(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	var mu sync.Mutex
	rooms := map[string]bool{}
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			id := alice.CreateRoom(obj{"room_version": "12"})
			mu.Lock()
			defer mu.Unlock()
			rooms[id] = true
		})
	}
	all.Wait()
	if len(rooms) != 64 {
		t.Errorf("%d rooms", len(rooms))
	}
}
