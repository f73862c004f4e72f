package pusher_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/store"
)

// postOffice keeps the messages that are sent.
type postOffice struct {
	t   testing.TB
	got chan letter

	mu     sync.Mutex
	closed bool
	fail   error
	asked  int
	looked int
}

type letter struct{ to, subject, text, unsubscribe string }

func (p *postOffice) Ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looked++
	return !p.closed
}

func (p *postOffice) Send(context.Context, string, string, string) error {
	return errors.New("a message of another kind")
}

func (p *postOffice) SendList(_ context.Context, to, subject, text, unsubscribe string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked++; p.fail != nil {
		return p.fail
	}
	p.got <- letter{to, subject, text, unsubscribe}
	return nil
}

func (p *postOffice) set(closed bool, fail error) {
	p.mu.Lock()
	p.closed, p.fail = closed, fail
	p.mu.Unlock()
}

func (p *postOffice) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *postOffice) next() letter {
	p.t.Helper()
	select {
	case l := <-p.got:
		return l
	case <-time.After(time.Minute):
		p.t.Fatal("no message came")
		panic("unreachable")
	}
}

// rooms are the lines that the next message has about rooms.
func (p *postOffice) rooms() (out []string) {
	p.t.Helper()
	for _, l := range strings.Split(p.next().text, "\n") {
		if room, ok := strings.CutPrefix(l, "  - "); ok {
			out = append(out, room)
		}
	}
	return out
}

// texts is the catalogue of messages in short.
func texts(_, key string) string {
	return map[string]string{
		"mail.missed.subject": "unread at {server}",
		"mail.missed.text":    "for {user} at {address}\n{rooms}\n{url}\n{link}", "mail.missed.one": "1", "mail.missed.some": "{n}", "mail.missed.many": "{n}+",
		"mail.missed.room": "{room}: {count} from {people}", "mail.missed.roomUnnamed": "{count} from {people}",
		"mail.missed.invite": "{people} invites to {room}", "mail.missed.inviteUnnamed": "{people} invites",
		"mail.missed.others": "{people} and {n} more", "mail.missed.more": "{n} more rooms",
		"identity.unsubscribe.text": "no more to {address}", "identity.unsubscribe.title": "stop?", "identity.unsubscribe.submit": "stop",
		"identity.unsubscribe.done.title": "stopped", "identity.unsubscribe.gone.title": "ends nothing",
	}[key]
}

const address = "bob@example.net"

// withMail is a homeserver that tells by e-mail at once, and then not for an hour.
func withMail(t testing.TB) (*hstest.HS, *postOffice) {
	p := &postOffice{t: t, got: make(chan letter, 100)}
	hs := hstest.New(t, func(o *homeserver.Options) {
		o.Mail, o.Text, o.MailWait, o.MailPause, o.PushWait = p, texts, time.Nanosecond, time.Hour, time.Millisecond
		o.Site = func() string { return "https://chat.example.org" }
	})
	return hs, p
}

func byMail(change obj) obj {
	o := obj{"kind": "email", "app_id": "m.email", "pushkey": address, "app_display_name": "E-mail", "device_display_name": address, "lang": "en", "data": obj{"brand": "x"}, "append": true}
	for k, v := range change {
		o[k] = v
	}
	return o
}

func TestSetMail(t *testing.T) {
	hs, post := withMail(t)
	bob, alice := hs.Login(t, "bob"), hs.Login(t, "alice")
	bob.Fails(400, mx.ThreepidNotFound, "POST", set, byMail(nil))
	hs.SetEmail(address, bob.UserID)
	alice.Fails(400, mx.ThreepidNotFound, "POST", set, byMail(nil))
	bob.Fails(400, mx.InvalidParam, "POST", set, byMail(obj{"app_id": "org.example.app"}))
	post.set(true, nil)
	bob.Fails(400, mx.InvalidParam, "POST", set, byMail(nil))
	post.set(false, nil)
	bob.Must("POST", set, byMail(obj{"pushkey": "BOB@example.net"})) // the case is of no matter
	list := bob.Must("GET", "/pushers", nil).At("pushers").List()
	if len(list) != 1 || list[0].At("kind").String() != "email" || list[0].At("pushkey").String() != "BOB@example.net" || list[0].At("data", "brand").String() != "x" ||
		list[0].At("org.matrix.msc3881.device_id").V != nil {
		t.Fatalf("%v", list)
	}
	bob.Must("POST", set, byMail(obj{"kind": nil, "pushkey": "BOB@example.net"}))
	if got := keys(bob); got != nil {
		t.Errorf("after it was deleted: %v", got)
	}
	// It does not end with the device that set it: it is for when there is none at hand.
	bob.Must("POST", set, byMail(nil))
	if err := hs.DB.Write(t.Context(), func(tx *store.Tx) error { return hs.DeleteDevice(tx, bob.UserID, bob.DeviceID) }); err != nil {
		t.Fatal(err)
	}
	if got := keys(bob); !slices.Equal(got, []string{address}) {
		t.Errorf("after the device was deleted: %v", got)
	}
	if err := hs.LeaveAll(t.Context(), bob.UserID); err != nil {
		t.Fatal(err)
	}
	var n int
	err := hs.DB.Read(t.Context(), func(q store.Querier) error {
		return q.QueryRow(`SELECT (SELECT count(*) FROM pushers) + (SELECT count(*) FROM pusher_mails)`).Scan(&n)
	})
	if err != nil || n != 0 {
		t.Errorf("%d rows are left of a closed account (%v)", n, err)
	}
}

// TestMail: one message tells of all that is unread, who wrote where, and nothing of
// what was written; the next comes when somebody was here.
func TestMail(t *testing.T) {
	hs, post := withMail(t)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	hs.SetEmail(address, bob.UserID)
	named := alice.CreateRoom(obj{"preset": "public_chat", "name": "Mission\nControl"})
	direct := alice.CreateRoom(obj{"preset": "public_chat"})
	for _, room := range []string{named, direct} {
		bob.Join(room)
		carol.Join(room)
	}
	alice.Send(named, "before there was a pusher")
	bob.Must("POST", set, byMail(nil))

	post.set(true, nil)
	read := alice.Send(direct, "read elsewhere")
	bob.Must("POST", hstest.Room(direct)+"/receipt/m.read/"+read, obj{})
	hs.Lock(bob.UserID, true) // so that all of this is told at once
	post.set(false, nil)
	alice.Send(named, "secret plans")
	carol.Send(named, "more secrets")
	alice.SendEvent(named, mx.RoomMessage, obj{"msgtype": "m.notice", "body": "beep"})
	alice.SendEvent(direct, mx.RoomEncrypted, obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"})
	alice.CreateRoom(obj{"name": "Attic", "invite": []string{bob.UserID}})
	alice.CreateRoom(obj{"invite": []string{bob.UserID}})
	hs.Lock(bob.UserID, false)
	l := post.next()
	want := "for @bob:example.org at bob@example.net\n" +
		"  - Mission Control: 2 from alice, carol\n  - 1 from alice\n  - alice invites to Attic\n  - alice invites\n" +
		"https://chat.example.org\n" + l.unsubscribe + "\n"
	if l.to != address || l.subject != "unread at example.org" || l.text != want {
		t.Errorf("the message is %+v, want\n%s", l, want)
	}

	// Who stays away is not told of each message.
	alice.Send(named, "not told of")
	hs.Restart()
	last := alice.Send(named, "nor of this")
	// Who reads is told again, of what came since.
	bob.Must("POST", hstest.Room(named)+"/receipt/m.read/"+last, obj{})
	eventually(t, "that bob has read is noted", func() (rested bool) {
		err := hs.DB.Read(t.Context(), func(q store.Querier) error {
			return q.QueryRow(`SELECT in_row = 0 AND sent_ts > 0 FROM pusher_mails`).Scan(&rested)
		})
		return err == nil && rested
	})
	carol.Send(named, "told of")
	if got := post.rooms(); !slices.Equal(got, []string{"Mission Control: 1 from carol"}) {
		t.Errorf("the second message is of %q", got)
	}
	if n := post.requests(); n != 2 {
		t.Errorf("%d messages were sent, want 2", n)
	}
}

func TestMailOfMany(t *testing.T) {
	hs, post := withMail(t)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	hs.SetEmail(address, bob.UserID)
	bob.Must("POST", set, byMail(nil))
	room := alice.CreateRoom(obj{"preset": "public_chat", "name": strings.Repeat("long ", 40)})
	bob.Join(room)
	hs.Lock(bob.UserID, true)
	for range 25 {
		alice.Send(room, "x")
	}
	for _, name := range []string{"c", "d", "e", "f"} {
		c := hs.Login(t, name)
		c.Join(room)
		c.Send(room, "x")
	}
	for range 22 {
		alice.CreateRoom(obj{"invite": []string{bob.UserID}})
	}
	hs.Lock(bob.UserID, false)
	got := post.rooms()
	if len(got) != 21 || got[20] != "3 more rooms" || !strings.HasSuffix(got[0], "…: 20+ from alice, c, d and 2 more") || len([]rune(got[0])) > 110 {
		t.Errorf("%d %q", len(got), got)
	}
}

// TestMailRests: a busy room costs a look now and then, not one for each message.
func TestMailRests(t *testing.T) {
	post := &postOffice{t: t, got: make(chan letter, 100)}
	hs := hstest.New(t, func(o *homeserver.Options) { o.Mail, o.Text, o.MailWait, o.PlainPush = post, texts, time.Hour, true })
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	hs.SetEmail(address, bob.UserID)
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	carol.Join(room)
	witness := newGateway(t)
	carol.Must("POST", set, witness.pusher("W", nil))
	bob.Must("POST", set, byMail(nil))
	for range 60 {
		witness.event(alice.Send(room, "x"))
	}
	post.mu.Lock()
	defer post.mu.Unlock()
	if post.looked > 30 {
		t.Errorf("60 messages made it look %d times", post.looked)
	}
}

// TestMailEnds: by its link, and when the address is not the account's any more.
func TestMailEnds(t *testing.T) {
	hs, post := withMail(t)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	hs.SetEmail(address, bob.UserID)
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	bob.Must("POST", set, byMail(nil))
	alice.Send(room, "x")
	link := strings.TrimPrefix(post.next().unsubscribe, "https://chat.example.org")
	ask := func(method, path string, form url.Values, status int, text string) {
		t.Helper()
		req, err := http.NewRequest(method, hs.URL+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		a := hs.Answer(t, req)
		if a.Status != status || !strings.Contains(string(a.Body), text) {
			t.Errorf("%s %s: %d %s", method, path, a.Status, a.Body)
		}
	}
	ask("GET", link, nil, 200, "no more to bob@example.net")
	ask("GET", link, nil, 200, "no more to bob@example.net")
	wrong := regexp.MustCompile(`secret=.`).ReplaceAllString(link, "secret=x")
	for _, bad := range []string{wrong, strings.Replace(link, "id=", "id=9", 1), strings.Replace(link, "id=", "id=x", 1)} {
		ask("GET", bad, nil, 404, "ends nothing")
		ask("POST", bad, nil, 404, "ends nothing")
	}
	if got := keys(bob); len(got) != 1 {
		t.Fatalf("%v", got)
	}
	// As mail programs do it.
	ask("POST", link, url.Values{"List-Unsubscribe": {"One-Click"}}, 200, "stopped")
	if got := keys(bob); got != nil {
		t.Errorf("%v", got)
	}
	ask("POST", link, nil, 404, "ends nothing")

	// Another pusher has another secret, though it may have the same number.
	bob.Must("POST", set, byMail(nil))
	ask("POST", link, nil, 404, "ends nothing")
	hs.SetEmail(address, "")
	alice.Send(room, "y")
	eventually(t, "the pusher is gone with its address", func() bool { return keys(bob) == nil })
	if n := post.requests(); n != 1 {
		t.Errorf("%d messages were sent", n)
	}
}

// TestMailTrouble: a mail server that is away is asked again; a locked account is told
// nothing until it is unlocked.
func TestMailTrouble(t *testing.T) {
	hs, post := withMail(t)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	hs.SetEmail(address, bob.UserID)
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	bob.Must("POST", set, byMail(nil))
	post.set(false, errors.New("the post office burns"))
	alice.Send(room, "x")
	eventually(t, "it is tried again", func() bool { return post.requests() > 2 })
	if x := hs.Pushers.Troubles(); len(x) != 1 || x[0].Gateway != "e-mail" || !strings.Contains(x[0].Err, "burns") {
		t.Errorf("%+v", x)
	}
	hs.Lock(bob.UserID, true)
	post.set(false, nil)
	alice.Send(room, "y")
	hs.Restart()
	alice.Send(room, "z")
	hs.Lock(bob.UserID, false)
	if got := post.rooms(); !slices.Equal(got, []string{"3 from alice"}) {
		t.Errorf("%q", got)
	}
}
