package media_test

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/media"
	"holdfast/homeserver/mx"
	"holdfast/store"
	"holdfast/store/blob"
)

const admin = "@admin:" + apitest.Server

var ctx = context.Background()

func TestQuarantine(t *testing.T) {
	s := serve(t, media.Settings{OpenBefore: time.Now().Add(time.Hour)})
	alice, bob := s.As("alice", "A"), s.As("bob", "B")
	var pic bytes.Buffer
	png.Encode(&pic, picture(300, 200, 255))
	bad := upload(t, alice, "bad.png", "image/png", pic.Bytes())
	same := upload(t, bob, "other name.png", "image/png", pic.Bytes())
	kept := upload(t, bob, "logo.png", "image/png", pic.Bytes())
	fine := upload(t, alice, "fine.txt", "text/plain", []byte("fine"))
	everywhere := func(id string, status int) {
		t.Helper()
		for _, p := range []string{path("download", id), path("download", id) + "/name.png", path("thumbnail", id) + "?width=32&height=32",
			"/_matrix/media/v3/download/" + apitest.Server + "/" + id, "/_matrix/media/r0/thumbnail/" + apitest.Server + "/" + id + "?width=32&height=32"} {
			a := bob.Do("GET", p, nil)
			if a.Status != status {
				t.Errorf("%s: %d, want %d", p, a.Status, status)
			} else if status == 404 {
				a.Want(t, 404, mx.NotFound)
			}
		}
	}
	everywhere(bad, 200)
	if err := s.Protect(ctx, kept, true); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Quarantine(ctx, bad, admin, true); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	everywhere(bad, 404)
	everywhere(same, 404)
	everywhere(kept, 200)
	if a := bob.Do("GET", path("download", fine), nil); a.Status != 200 {
		t.Error("other media is gone")
	}
	everywhere(upload(t, bob, "again.png", "image/png", pic.Bytes()), 404)
	m := bob.OK("POST", "/_matrix/media/v1/create", "", nil).JSON(t)
	_, later, _ := strings.Cut(m["content_uri"].(string), apitest.Server+"/")
	if a := bob.Raw("PUT", "/_matrix/media/v3/upload/"+apitest.Server+"/"+later, "image/png", bytes.NewReader(pic.Bytes())); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	everywhere(later, 404)
	if f, err := s.File(ctx, bad); err != nil || f.QuarantinedBy != admin || f.UserID != alice.UserID || f.Name != "bad.png" || f.Size != int64(pic.Len()) {
		t.Errorf("%+v %v", f, err)
	}
	if n, err := s.Quarantine(ctx, kept, admin, true); n != 0 || err != nil {
		t.Errorf("protected media was quarantined: %d %v", n, err)
	}
	if n, err := s.Quarantine(ctx, same, "", false); n != 4 || err != nil {
		t.Error(n, err)
	}
	everywhere(bad, 200)
	everywhere(later, 200)
	everywhere(upload(t, alice, "again.png", "image/png", pic.Bytes()), 200)
	if n, err := s.QuarantineUser(ctx, bob.UserID, admin); n == 0 || err != nil {
		t.Error(n, err)
	}
	everywhere(same, 404)
	everywhere(bad, 404) // the same content
	everywhere(kept, 200)
	if _, err := s.Quarantine(ctx, "nothing", admin, true); code(err) != mx.NotFound {
		t.Error(err)
	}
	if err := s.Protect(ctx, "nothing", true); code(err) != mx.NotFound {
		t.Error(err)
	}
}

func code(err error) mx.Code {
	if e, ok := err.(*mx.Error); ok {
		return e.Code
	}
	return ""
}

// What was announced before it was quarantined stays so when its content comes.
func TestQuarantineBeforeTheContent(t *testing.T) {
	s := serve(t, media.Settings{})
	alice := s.As("alice", "A")
	m := alice.OK("POST", "/_matrix/media/v1/create", "", nil).JSON(t)
	_, id, _ := strings.Cut(m["content_uri"].(string), apitest.Server+"/")
	if n, err := s.QuarantineUser(ctx, alice.UserID, admin); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	alice.Fails("GET", path("download", id), nil, 404, mx.NotFound)
	alice.Raw("PUT", "/_matrix/media/v3/upload/"+apitest.Server+"/"+id, "", strings.NewReader("x")).Want(t, 404, mx.NotFound)
}

// put uploads to a whole homeserver.
func put(c *hstest.Client, body string) (mediaID string) {
	return strings.TrimPrefix(c.Must("POST", "/_matrix/media/v3/upload", []byte(body)).At("content_uri").String(), uri(""))
}

func uri(id string) string { return "mxc://" + hstest.Server + "/" + id }

func TestRoomMedia(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
	bob.Join(room)
	file, thumb, sealed, avatar, talked := put(alice, "file"), put(alice, "thumb"), put(bob, "sealed"), put(alice, "avatar"), put(bob, "talked about")
	alice.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.image", "body": "x", "url": uri(file), "info": map[string]any{"thumbnail_url": uri(thumb)}})
	bob.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.file", "body": "x", "file": map[string]any{"url": uri(sealed)}})
	bob.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.image", "body": "x", "url": "mxc://other.example/abc"})
	bob.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": uri(talked), "url": 5, "info": "none"})
	alice.SendState(room, "m.room.avatar", "", map[string]any{"url": uri(avatar)})
	local, remote, err := hs.Files.RoomFiles(ctx, room)
	if err != nil || !slices.Equal(local, []string{file, thumb, sealed, avatar}) || !slices.Equal(remote, []string{"mxc://other.example/abc"}) {
		t.Fatal(local, remote, err)
	}
	if n, err := hs.Files.QuarantineRoom(ctx, room, admin); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	hs.Restart()
	for id, status := range map[string]int{file: 404, thumb: 404, sealed: 404, avatar: 404, talked: 200} {
		if a := bob.Do("GET", "/_matrix/client/v1/media/download/"+hstest.Server+"/"+id, nil); a.Status != status {
			t.Errorf("%s: %d", id, a.Status)
		}
	}
	if _, _, err := hs.Files.RoomFiles(ctx, "!none:example.org"); code(err) != mx.NotFound {
		t.Error(err)
	}
}

// What profiles, account data and the state of rooms show is kept, however old.
func TestWhatIsShownIsKept(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	message, avatar, before, now, emote := put(alice, "message"), put(alice, "avatar"), put(alice, "before"), put(alice, "now"), put(alice, "emote")
	alice.SendEvent(room, "m.room.message", map[string]any{"msgtype": "m.file", "body": "x", "url": uri(message)})
	alice.Must("PUT", "/profile/"+alice.UserID+"/avatar_url", map[string]any{"avatar_url": uri(avatar)})
	alice.SendState(room, "m.room.avatar", "", map[string]any{"url": uri(before)})
	alice.SendState(room, "m.room.avatar", "", map[string]any{"url": uri(now)})
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/im.ponies.user_emotes", map[string]any{"images": map[string]any{"x": map[string]any{"url": uri(emote)}}})
	d, err := hs.Files.DeleteOld(ctx, media.Old{Before: time.Now().Add(time.Hour).UnixMilli(), KeepUsed: true})
	slices.Sort(d.IDs)
	want := []string{message, before}
	slices.Sort(want)
	if err != nil || !slices.Equal(d.IDs, want) {
		t.Errorf("deleted %v %v, want %v", d.IDs, err, want)
	}
}

func TestListsOfFiles(t *testing.T) {
	now := time.Now()
	s := serveWith(t, media.Options{Now: func() time.Time { return now }})
	alice, bob := s.As("alice", "A"), s.As("bob", "B")
	var ids []string
	for i := range 5 {
		ids = append(ids, upload(t, alice, fmt.Sprintf("%d.txt", i), "text/plain", bytes.Repeat([]byte("x"), 10-i)))
		now = now.Add(time.Second)
	}
	upload(t, bob, "b", "text/plain", []byte("bob's"))
	names := func(p media.Page) (out []string) {
		t.Helper()
		list, total, err := s.UserFiles(ctx, alice.UserID, p)
		if err != nil || total != 5 {
			t.Fatal(total, err)
		}
		for _, f := range list {
			out = append(out, f.Name)
		}
		return out
	}
	for _, c := range []struct {
		page media.Page
		want string
	}{
		{media.Page{Limit: 10}, "4.txt 3.txt 2.txt 1.txt 0.txt"},
		{media.Page{From: 1, Limit: 2, OrderBy: "created_ts"}, "1.txt 2.txt"},
		{media.Page{Limit: 2, OrderBy: "media_length"}, "4.txt 3.txt"},
		{media.Page{Limit: 2, OrderBy: "media_length", Backwards: true}, "0.txt 1.txt"},
		{media.Page{From: 5, Limit: 2}, ""},
	} {
		if got := strings.Join(names(c.page), " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.page, got, c.want)
		}
	}
	if _, _, err := s.UserFiles(ctx, alice.UserID, media.Page{OrderBy: "1; DROP TABLE media"}); code(err) != mx.InvalidParam {
		t.Error(err)
	}
	list, total, err := s.Usage(ctx, media.UsageQuery{Limit: 10, OrderBy: "media_length", Backwards: true})
	if want := []media.Usage{{UserID: alice.UserID, Files: 5, Bytes: 40}, {UserID: bob.UserID, Files: 1, Bytes: 5}}; err != nil || total != 2 || !slices.Equal(list, want) {
		t.Error(list, total, err)
	}
	list, total, err = s.Usage(ctx, media.UsageQuery{Limit: 10, Search: "ALI", Until: now.Add(-4500 * time.Millisecond).UnixMilli()})
	if want := []media.Usage{{UserID: alice.UserID, Files: 1, Bytes: 10}}; err != nil || total != 1 || !slices.Equal(list, want) {
		t.Error(list, total, err)
	}
	d, err := s.DeleteUser(ctx, alice.UserID, media.Page{Limit: 2, OrderBy: "created_ts"})
	if err != nil || d.Bytes != 19 || !slices.Equal(d.IDs, ids[:2]) {
		t.Errorf("%+v %v", d, err)
	}
	alice.Fails("GET", path("download", ids[0]), nil, 404, mx.NotFound)
	if list, _, err := s.Usage(ctx, media.UsageQuery{Limit: 1}); err != nil || list[0].Bytes != 21 {
		t.Error(list, err)
	}
}

func TestDeletedContentIsGoneWhenNothingNamesIt(t *testing.T) {
	s := serve(t, media.Settings{})
	alice, bob := s.As("alice", "A"), s.As("bob", "B")
	var pic bytes.Buffer
	png.Encode(&pic, picture(300, 200, 255))
	a := upload(t, alice, "", "image/png", pic.Bytes())
	b := upload(t, bob, "", "image/png", pic.Bytes())
	alice.OK("GET", path("thumbnail", a)+"?width=32&height=32&method=crop", nil, nil)
	if n := s.files(t); n != 2 {
		t.Fatalf("%d files for an image and its thumbnail", n)
	}
	if d, err := s.Delete(ctx, a, a, "nothing"); err != nil || len(d.IDs) != 1 || d.Bytes != 0 {
		t.Errorf("%+v %v", d, err)
	}
	bob.OK("GET", path("thumbnail", b)+"?width=32&height=32&method=crop", nil, nil)
	if d, err := s.Delete(ctx, b); err != nil || d.Bytes <= int64(pic.Len()) || s.files(t) != 0 {
		t.Errorf("%+v %v, %d files left", d, err, s.files(t))
	}
}

// A crash between a file and its record leaves a file that nothing names.
func TestCollect(t *testing.T) {
	s := serve(t, media.Settings{})
	id := upload(t, s.As("alice", "A"), "", "", []byte("kept"))
	blobs, err := blob.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := blobs.Put(ctx, strings.NewReader("left behind"), 100); err != nil { // its process ends here
		t.Fatal(err)
	}
	if n, err := s.Collect(ctx); n != 11 || err != nil || s.files(t) != 1 {
		t.Error(n, err, s.files(t))
	}
	s.As("alice", "A").OK("GET", path("download", id), nil, nil)
}

// Equal contents are uploaded and deleted by many at once: who was answered 200 has
// the content until it is deleted.
func TestUploadsBesideDeletions(t *testing.T) {
	s := serve(t, media.Settings{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			c := s.As(fmt.Sprintf("user%d", i), "D")
			for range 25 {
				id := upload(t, c, "", "", []byte("the same for all"))
				if a := c.Do("GET", path("download", id), nil); a.Status != http.StatusOK {
					t.Errorf("%d %s", a.Status, a.Body)
					return
				}
				if _, err := s.Delete(ctx, id); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if _, err := s.Collect(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if n := s.files(t); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

func TestConcurrentUploadsKeepTheQuota(t *testing.T) {
	s := serve(t, media.Settings{UserQuota: 1000})
	alice := s.As("alice", "A")
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := 0
	for i := range 20 {
		wg.Go(func() {
			body := bytes.Repeat([]byte{byte(i)}, 300)
			if a := alice.Raw("POST", "/_matrix/media/v3/upload", "", bytes.NewReader(body)); a.Status == 200 {
				mu.Lock()
				stored++
				mu.Unlock()
			} else {
				a.Want(t, 403, mx.Forbidden)
			}
		})
	}
	wg.Wait()
	// An upload that was refused may have left another no room; one that comes alone fits.
	for a := 200; a == 200; {
		if a = alice.Raw("POST", "/_matrix/media/v3/upload", "", strings.NewReader(strings.Repeat("z", 300))).Status; a == 200 {
			stored++
		}
	}
	list, _, err := s.Usage(ctx, media.UsageQuery{Limit: 1})
	if err != nil || stored != 3 || list[0].Bytes != 900 {
		t.Errorf("%d stored, %+v %v", stored, list, err)
	}
}

func TestOldMediaIsDeleted(t *testing.T) {
	now := time.Now()
	set := media.Settings{Lifetime: 30 * 24 * time.Hour}
	used := ""
	s := serveWith(t, media.Options{Now: func() time.Time { return now }, Settings: func() media.Settings { return set },
		InUse: func(_ store.Querier, f func(string)) error {
			f(`{"avatar_url":"mxc://example.org/` + used + `"}`)
			return nil
		}})
	alice := s.As("alice", "A")
	old, read, avatar, evidence, logo := upload(t, alice, "", "", []byte("1")), upload(t, alice, "", "", []byte("2")), upload(t, alice, "", "", []byte("3")),
		upload(t, alice, "", "", []byte("4")), upload(t, alice, "", "", []byte("5"))
	used = avatar
	if _, err := s.Quarantine(ctx, evidence, admin, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Protect(ctx, logo, true); err != nil {
		t.Fatal(err)
	}
	now = now.Add(20 * 24 * time.Hour)
	alice.OK("GET", path("download", read), nil, nil)
	if err := s.Expire(ctx); err != nil {
		t.Fatal(err)
	}
	now = now.Add(11 * 24 * time.Hour)
	new := upload(t, alice, "", "", []byte("6"))
	if err := s.Expire(ctx); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{old: false, read: true, avatar: true, evidence: true, logo: true, new: true} {
		if _, err := s.File(ctx, id); (err == nil) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
	if f, _ := s.File(ctx, read); f.Accessed <= f.Created {
		t.Errorf("%+v", f)
	}
	d, err := s.DeleteOld(ctx, media.Old{Before: now.UnixMilli(), MinSize: 1})
	if err != nil || len(d.IDs) != 4 { // all but the one just uploaded
		t.Errorf("%+v %v", d, err)
	}
}
