package unifiedpush_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"holdfast/homeserver"
	"holdfast/homeserver/apitest"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/push/unifiedpush"
	"holdfast/store"
)

type obj = map[string]any

// place is a homeserver with its push server on one address.
type place struct {
	*hstest.HS
	t    testing.TB
	url  string
	push atomic.Pointer[unifiedpush.Settings]
}

func newPlace(t testing.TB, change func(*homeserver.Options)) *place {
	p := &place{t: t}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if unifiedpush.Serves(r.URL.Path) {
			p.Phones.ServeHTTP(w, r)
			return
		}
		p.Handler().ServeHTTP(w, r)
	}))
	p.url = srv.URL
	p.HS = hstest.New(t, func(o *homeserver.Options) {
		o.Own = func(u *url.URL) bool { return "http://"+u.Host == p.url }
		o.PushWait = time.Millisecond
		o.Push = func() unifiedpush.Settings {
			if s := p.push.Load(); s != nil {
				return *s
			}
			return unifiedpush.Settings{}
		}
		if change != nil {
			change(o)
		}
	})
	t.Cleanup(func() { // before the homeserver stops
		srv.CloseClientConnections()
		srv.Close()
	})
	return p
}

const topicA, topicB = "upAbCdEfGh1234", "upXyZzYxWv9876"

// phone makes a phone and gives its secret.
func (p *place) phone(userID, deviceID string) (int64, string) {
	p.t.Helper()
	x, secret, err := p.Phones.AddPhone(context.Background(), userID, deviceID, "Phone")
	if err != nil {
		p.t.Fatal(err)
	}
	return x.ID, secret
}

func (p *place) do(method, path, secret, body string, head ...string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if secret != "" {
		req.SetBasicAuth("", secret)
	}
	for i := 0; i+1 < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// fails is a request that is refused with a code of ntfy's.
func (p *place) fails(status, code int, method, path, secret, body string) {
	p.t.Helper()
	got, b := p.do(method, path, secret, body)
	var e struct {
		Code, HTTP int
		Error      string
	}
	if json.Unmarshal([]byte(b), &e); got != status || e.Code != code || e.HTTP != status || e.Error == "" {
		p.t.Errorf("%s %s: %d %s, want %d with code %d", method, path, got, b, status, code)
	}
}

func (p *place) publish(topic, body string) message {
	p.t.Helper()
	status, b := p.do("POST", "/"+topic+"?up=1", "", body)
	if status != 200 {
		p.t.Fatalf("a message was not taken: %d %s", status, b)
	}
	return parse(p.t, b)
}

type message struct{ ID, Event, Topic, Message, Encoding string }

func parse(t testing.TB, line string) (m message) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return m
}

// stream is an open subscription.
type stream struct {
	t     testing.TB
	lines chan string
	close func()
}

func (s *stream) next() message {
	s.t.Helper()
	select {
	case l, ok := <-s.lines:
		if !ok {
			s.t.Fatal("the stream ended")
		}
		return parse(s.t, l)
	case <-time.After(time.Minute):
		s.t.Fatal("nothing came")
		panic("unreachable")
	}
}

func (s *stream) opens(topics string) {
	s.t.Helper()
	if m := s.next(); m.Event != "open" || m.Topic != topics || m.ID == "" {
		s.t.Fatalf("the stream begins with %+v", m)
	}
}

func (s *stream) ends() {
	s.t.Helper()
	select {
	case l, ok := <-s.lines:
		if ok {
			s.t.Fatalf("the stream goes on with %q", l)
		}
	case <-time.After(time.Minute):
		s.t.Fatal("the stream does not end")
	}
}

func (p *place) json(topics, query, secret string) *stream {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p.t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, "GET", p.url+"/"+topics+"/json?"+query, nil)
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		b, _ := io.ReadAll(resp.Body)
		p.t.Fatalf("no stream: %d %s", resp.StatusCode, b)
	}
	s := &stream{p.t, make(chan string, 1000), cancel}
	go func() {
		defer resp.Body.Close()
		defer close(s.lines)
		for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
			s.lines <- sc.Text()
		}
	}()
	return s
}

func (p *place) socket(topics, query, user, secret string) *stream {
	p.t.Helper()
	h := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret))}}
	conn, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(p.url, "http")+"/"+topics+"/ws?"+query, h)
	if err != nil {
		b := ""
		if resp != nil {
			x, _ := io.ReadAll(resp.Body)
			b = resp.Status + " " + string(x)
		}
		p.t.Fatalf("no WebSocket: %v %s", err, b)
	}
	p.t.Cleanup(func() { conn.Close() })
	s := &stream{p.t, make(chan string, 1000), func() { conn.Close() }}
	go func() {
		defer close(s.lines)
		for {
			_, b, err := conn.ReadMessage()
			if err != nil {
				return
			}
			s.lines <- string(b)
		}
	}()
	return s
}

// pusher is what Element X sets after its distributor gave it an endpoint.
func (p *place) pusher(topic string) obj {
	return obj{"kind": "http", "app_id": "io.element.android.x.push", "pushkey": p.url + "/" + topic + "?up=1", "app_display_name": "Element X",
		"device_display_name": "Pixel", "lang": "en", "profile_tag": "", "append": false,
		"data": obj{"url": p.url + "/_matrix/push/v1/notify", "format": "event_id_only", "default_payload": obj{"cs": "s"}}}
}

// A message in a room reaches a phone by every way of subscribing, and after a
// restart by the ID of the last one that it has.
func TestFromRoomToPhone(t *testing.T) {
	p := newPlace(t, nil)
	alice, bob := p.Login(t, "alice"), p.Login(t, "bob")
	_, secret := p.phone(bob.UserID, bob.DeviceID)
	status, b := p.do("GET", "/_matrix/push/v1/notify", "", "")
	if status != 200 || strings.TrimSpace(b) != `{"unifiedpush":{"gateway":"matrix"}}` {
		t.Fatalf("the gateway is not found: %d %s", status, b)
	}
	if status, b := p.do("GET", "/"+topicA+"?up=1", "", ""); status != 200 || strings.TrimSpace(b) != `{"unifiedpush":{"version":1}}` {
		t.Errorf("the endpoint is not found: %d %s", status, b)
	}
	ws := p.socket(topicA, "since=none", "bob", secret)
	ws.opens(topicA)
	js := p.json(topicA+","+topicB, "since=none", secret)
	js.opens(topicA + "," + topicB)
	room := alice.CreateRoom(obj{"preset": "private_chat", "invite": []string{bob.UserID}})
	bob.Join(room)
	bob.Must("POST", "/pushers/set", p.pusher(topicA))
	id := alice.Send(room, "hello")
	check := func(m message) {
		t.Helper()
		var v hstest.Value
		if json.Unmarshal([]byte(m.Message), &v.V); m.Topic != topicA || v.At("notification", "event_id").String() != id || v.At("notification", "room_id").String() != room ||
			v.At("notification", "counts", "unread").V != 1.0 || strings.Contains(m.Message, "hello") {
			t.Errorf("the phone got %+v", m)
		}
	}
	last := ws.next()
	check(last)
	check(js.next())
	ws.close()
	p.Restart()
	id = alice.Send(room, "while the phone is away")
	next := func(s *stream) message {
		t.Helper()
		for {
			if m := s.next(); strings.Contains(m.Message, id) {
				return m
			}
		}
	}
	ws = p.socket(topicA, "since="+last.ID, bob.UserID, secret)
	ws.opens(topicA)
	if m := next(ws); m.ID == last.ID {
		t.Error("a message came twice")
	}
	js = p.json(topicA, "since="+last.ID, secret)
	js.opens(topicA)
	next(js)
	bob.Must("POST", "/rooms/"+room+"/receipt/m.read/"+id, obj{})
	if m := ws.next(); !strings.Contains(m.Message, `"unread":0`) {
		t.Errorf("after reading came %+v, want the count 0", m)
	}
}

// A client may set its pusher before its distributor has subscribed: what is pushed
// meanwhile arrives as soon as the phone comes, however long that took.
func TestPusherBeforePhone(t *testing.T) {
	p := newPlace(t, func(o *homeserver.Options) { o.PushWait = time.Hour })
	alice, bob := p.Login(t, "alice"), p.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "private_chat", "invite": []string{bob.UserID}})
	bob.Join(room)
	bob.Must("POST", "/pushers/set", p.pusher(topicA))
	id := alice.Send(room, "early")
	for end := time.Now().Add(time.Minute); len(p.Pushers.Troubles()) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the gateway took what nobody can fetch")
		}
	}
	_, secret := p.phone(bob.UserID, "")
	ws := p.socket(topicA, "since=none", "bob", secret)
	ws.opens(topicA)
	if m := ws.next(); !strings.Contains(m.Message, id) {
		t.Errorf("the phone got %+v", m)
	}
	if len(bob.Must("GET", "/pushers", nil).At("pushers").List()) != 1 {
		t.Error("the pusher is gone")
	}
}

func TestStreams(t *testing.T) {
	p := newPlace(t, nil)
	bob := p.Login(t, "bob")
	_, secret := p.phone(bob.UserID, "")
	if status, b := p.do("GET", "/"+topicA+"/json?poll=1", secret, ""); status != 200 || b != "" {
		t.Fatalf("an empty topic gives %d %q", status, b)
	}
	first := p.publish(topicA, "one")
	second := p.publish(topicA, "\xff\x00two")
	if first.Message != "one" || first.Encoding != "" || first.Event != "message" || second.Encoding != "base64" || second.Message != base64.StdEncoding.EncodeToString([]byte("\xff\x00two")) {
		t.Errorf("published: %+v %+v", first, second)
	}
	ids := func(query string) (out []string) {
		t.Helper()
		status, b := p.do("GET", "/"+topicA+"/json?poll=1&"+query, secret, "")
		if status != 200 {
			t.Fatalf("%s: %d %s", query, status, b)
		}
		for l := range strings.Lines(b) {
			out = append(out, parse(t, l).ID)
		}
		return out
	}
	for query, want := range map[string][]string{
		"":                   {first.ID, second.ID},
		"since=all":          {first.ID, second.ID},
		"since=none":         nil,
		"since=" + first.ID:  {second.ID},
		"since=" + second.ID: nil,
		"since=unknownid123": {first.ID, second.ID},
		"since=latest":       {second.ID},
		"since=10m":          {first.ID, second.ID},
		"since=1":            {first.ID, second.ID},
		"since=" + fmt.Sprint(time.Now().Unix()+99): nil,
	} {
		if got := ids(query); !slices.Equal(got, want) {
			t.Errorf("%q gives %v, want %v", query, got, want)
		}
	}
	if status, b := p.do("GET", "/"+topicA+"/raw?poll=1", secret, ""); status != 200 || b != "one\n"+second.Message+"\n" {
		t.Errorf("raw: %d %q", status, b)
	}
	if status, b := p.do("GET", "/"+topicA+"/sse?poll=1&since="+first.ID, secret, ""); status != 200 || !strings.HasPrefix(b, "data: {") || !strings.HasSuffix(b, "}\n\n") {
		t.Errorf("sse: %d %q", status, b)
	}
	if status, b := p.do("GET", "/"+topicA+"/json", secret, "", "X-Poll", "1", "X-Since", first.ID); status != 200 || strings.Count(b, "\n") != 1 {
		t.Errorf("parameters as headers: %d %q", status, b)
	}
	auth := base64.RawURLEncoding.EncodeToString([]byte("Bearer " + strings.ToUpper(secret)))
	if status, b := p.do("GET", "/"+topicA+"/auth?auth="+auth, "", ""); status != 200 {
		t.Errorf("the secret as a parameter: %d %s", status, b)
	}
	// What is not to be kept is gone when its time is over.
	if status, _ := p.do("PUT", "/"+topicA, "", "short", "TTL", "0"); status != 200 {
		t.Error("a message with a TTL is not taken")
	}
	if status, b := p.do("GET", "/v1/health", "", ""); status != 200 || !strings.Contains(b, `"healthy":true`) {
		t.Errorf("health: %d %s", status, b)
	}
}

// Whoever asks for something wrong is told what it is.
func TestRefusals(t *testing.T) {
	p := newPlace(t, nil)
	alice, bob := p.Login(t, "alice"), p.Login(t, "bob")
	_, secret := p.phone(bob.UserID, "")
	_, other := p.phone(alice.UserID, "")
	p.do("GET", "/"+topicA+"/json?poll=1", secret, "")
	many := make([]string, 5000)
	for i := range many {
		many[i] = fmt.Sprintf("upMany%08d", i)
	}
	for _, c := range []struct {
		status, code int
		method, path string
		secret, body string
	}{
		{401, 40101, "GET", "/" + topicA + "/json", "", ""},
		{401, 40101, "GET", "/" + topicA + "/json", "wrong", ""},
		{401, 40101, "GET", "/" + topicA + "/auth", "", ""},
		{401, 40101, "GET", "/" + topicA + "/json?auth=%21", "", ""},
		{403, 40301, "GET", "/" + topicA + "/json?poll=1", other, ""},
		{403, 40301, "GET", "/" + topicA + "/auth", other, ""},
		{403, 40301, "GET", "/alerts/json", secret, ""},
		{403, 40301, "GET", "/alerts/auth", secret, ""},
		{400, 40009, "GET", "/" + topicA + ",upshort/json", secret, ""},
		{400, 40009, "GET", "/" + strings.Join(many, ",") + "/json", secret, ""},
		{400, 40009, "POST", "/up" + strings.Repeat("x", 63), "", "m"},
		{400, 40008, "GET", "/" + topicA + "/json?since=yesterday", secret, ""},
		{400, 40008, "GET", "/" + topicA + "/json?since=-5", secret, ""},
		{400, 40011, "GET", "/" + topicA + "/ws", secret, ""},
		{405, 40001, "DELETE", "/" + topicA, secret, ""},
		{404, 40401, "GET", "/v1/account", secret, ""},
		{413, 41301, "POST", "/" + topicA, "", strings.Repeat("x", 4097)},
		{507, 50701, "POST", "/" + topicB, "", "m"},
	} {
		p.fails(c.status, c.code, c.method, c.path, c.secret, c.body)
	}
	if status, _ := p.do("POST", "/"+topicA, "", strings.Repeat("x", 4096)); status != 200 {
		t.Error("the largest message is not taken")
	}
	if status, b := p.do("GET", "/"+topicA+"/auth", "", "", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("alice:"+secret))); status != 401 {
		t.Errorf("a secret under another's name: %d %s", status, b)
	}
	// A phone has so many topics and no more.
	for i := range 49 {
		if status, b := p.do("GET", fmt.Sprintf("/upOneOf%08d/json?poll=1", i), secret, ""); status != 200 {
			t.Fatalf("topic %d: %d %s", i, status, b)
		}
	}
	p.fails(429, 42904, "GET", "/upOneTooMany00/json?poll=1", secret, "")
	// From outside, a topic takes so much and no more.
	var last int
	for range 200 {
		if last, _ = p.do("POST", "/"+topicA, "", "m"); last != 200 {
			break
		}
	}
	if last != 429 {
		t.Errorf("a flood is answered %d", last)
	}
	// A person has so many phones.
	var err error
	for range 30 {
		if _, _, err = p.Phones.AddPhone(context.Background(), bob.UserID, "", "x"); err != nil {
			break
		}
	}
	if !errors.Is(err, unifiedpush.ErrPhones) {
		t.Errorf("30 phones: %v", err)
	}
	for _, name := range []string{"", " ", strings.Repeat("x", 101), "a\nb"} {
		if _, _, err := p.Phones.AddPhone(context.Background(), alice.UserID, "", name); !errors.Is(err, unifiedpush.ErrName) {
			t.Errorf("the name %q: %v", name, err)
		}
	}
	if _, _, err := p.Phones.AddPhone(context.Background(), alice.UserID, bob.DeviceID, "x"); !errors.Is(err, unifiedpush.ErrNoDevice) {
		t.Errorf("with another's device: %v", err)
	}
	if err := p.Phones.EndPhone(context.Background(), alice.UserID, 1); !errors.Is(err, unifiedpush.ErrNoPhone) {
		t.Errorf("another's phone is ended: %v", err)
	}
}

// What a topic keeps is bounded, and the newest stay.
func TestQueue(t *testing.T) {
	p := newPlace(t, nil)
	bob := p.Login(t, "bob")
	_, secret := p.phone(bob.UserID, "")
	p.do("GET", "/"+topicA+"/json?poll=1", secret, "")
	deliver := func(n int) {
		t.Helper()
		body, _ := json.Marshal(obj{"notification": obj{"event_id": fmt.Sprint("$", n), "devices": []obj{{"app_id": "a", "pushkey": p.url + "/" + topicA + "?up=1"}}}})
		if rejected, ok, err := p.Phones.Deliver(context.Background(), p.url+"/_matrix/push/v1/notify", body); err != nil || !ok || len(rejected) > 0 {
			t.Fatal(rejected, ok, err)
		}
	}
	var wg sync.WaitGroup
	for i := range 130 {
		wg.Go(func() { deliver(i) })
	}
	wg.Wait()
	deliver(1000)
	_, b := p.do("GET", "/"+topicA+"/json?poll=1", secret, "")
	if n := strings.Count(b, "\n"); n < 80 || n > 100 || !strings.Contains(b, `$1000`) {
		t.Errorf("%d messages wait, want the newest 80 to 100", n)
	}
	sum := 0
	for l := range strings.Lines(b) {
		sum += len(parse(t, l).Message)
	}
	if got := p.Phones.Counts(); got.Bytes != int64(sum) {
		t.Errorf("%d bytes are counted, want %d", got.Bytes, sum)
	}
	p.Restart()
	if got := p.Phones.Counts(); got.Bytes != int64(sum) {
		t.Errorf("after a restart %d bytes are counted, want %d", got.Bytes, sum)
	}
	// A setting that is shorter than they are old ends them.
	p.push.Store(&unifiedpush.Settings{Keep: time.Nanosecond})
	p.publish(topicA, "expired at once")
	if _, b := p.do("GET", "/"+topicA+"/json?poll=1&since=latest", secret, ""); strings.Contains(b, "expired") {
		t.Errorf("what has expired is given: %s", b)
	}
}

// A phone comes again with a new connection while the old one is half dead: the
// oldest makes room.
func TestConnections(t *testing.T) {
	p := newPlace(t, nil)
	bob := p.Login(t, "bob")
	_, secret := p.phone(bob.UserID, "")
	first := p.json(topicA, "", secret)
	first.opens(topicA)
	for range 8 {
		p.socket(topicA, "", "", secret).opens(topicA)
	}
	first.ends()
	if n := p.Phones.Counts().Connections; n != 8 {
		t.Errorf("%d connections, want 8", n)
	}
}

// A phone ends with its device, its person's account, or when it is told to.
func TestEnds(t *testing.T) {
	for name, end := range map[string]func(p *place, bob *hstest.Client, id int64){
		"device": func(p *place, bob *hstest.Client, _ int64) {
			p.do2(func(tx *store.Tx) error { return p.DeleteDevice(tx, bob.UserID, bob.DeviceID) })
		},
		"account": func(p *place, bob *hstest.Client, _ int64) {
			if err := p.LeaveAll(context.Background(), bob.UserID); err != nil {
				p.t.Fatal(err)
			}
		},
		"by hand": func(p *place, bob *hstest.Client, id int64) {
			if err := p.Phones.EndPhone(context.Background(), bob.UserID, id); err != nil {
				p.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, nil)
			bob := p.Login(t, "bob")
			id, secret := p.phone(bob.UserID, bob.DeviceID)
			js := p.json(topicA, "", secret)
			js.opens(topicA)
			p.publish(topicA, "m")
			js.next()
			end(p, bob, id)
			js.ends()
			p.fails(401, 40101, "GET", "/"+topicA+"/json?poll=1", secret, "")
			p.fails(404, 40401, "POST", "/"+topicA, "", "m")
			if got := p.Phones.Counts(); got.Bytes != 0 || got.Connections != 0 {
				t.Errorf("there remains %+v", got)
			}
			if got := p.notify(t, 200, topicA); !strings.Contains(got, topicA) {
				t.Errorf("the pushkey is not rejected: %s", got)
			}
		})
	}
}

func (p *place) do2(fn func(tx *store.Tx) error) {
	p.t.Helper()
	if err := p.DB.Write(context.Background(), fn); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) notify(t *testing.T, want int, topics ...string) string {
	t.Helper()
	var devices []obj
	for _, x := range topics {
		devices = append(devices, obj{"app_id": "a", "pushkey": p.url + "/" + x + "?up=1", "data": obj{}})
	}
	body, _ := json.Marshal(obj{"notification": obj{"event_id": "$e", "room_id": "!r", "devices": devices}})
	status, b := p.do("POST", unifiedpush.GatewayPath, "", string(body))
	if status != want {
		t.Fatalf("the gateway answered %d %s, want %d", status, b, want)
	}
	return b
}

// A locked person's phones are cut off, and come back when the account is unlocked.
func TestLocked(t *testing.T) {
	p := newPlace(t, nil)
	bob := p.Login(t, "bob")
	_, secret := p.phone(bob.UserID, "")
	ws := p.socket(topicA, "", "bob", secret)
	ws.opens(topicA)
	p.Lock(bob.UserID, true)
	ws.ends()
	p.fails(403, 40301, "GET", "/"+topicA+"/json", secret, "")
	p.Lock(bob.UserID, false)
	p.socket(topicA, "", "bob", secret).opens(topicA)
}

// A topic moves to another phone of the same person, with what waits.
func TestMoves(t *testing.T) {
	p := newPlace(t, nil)
	bob := p.Login(t, "bob")
	old, secret := p.phone(bob.UserID, "")
	p.do("GET", "/"+topicA+"/json?poll=1", secret, "")
	p.publish(topicA, "waits")
	_, again := p.phone(bob.UserID, "")
	if status, b := p.do("GET", "/"+topicA+"/json?poll=1", again, ""); status != 200 || !strings.Contains(b, "waits") {
		t.Fatalf("the new phone gets %d %s", status, b)
	}
	if err := p.Phones.EndPhone(context.Background(), bob.UserID, old); err != nil {
		t.Fatal(err)
	}
	p.publish(topicA, "still there")
	if _, b := p.do("GET", "/"+topicA+"/json?poll=1", again, ""); strings.Count(b, "\n") != 2 {
		t.Errorf("with the old phone went what was the new one's: %s", b)
	}
}

func TestGateway(t *testing.T) {
	p := newPlace(t, nil)
	bob := p.Login(t, "bob")
	_, secret := p.phone(bob.UserID, "")
	p.do("GET", "/"+topicA+"/json?poll=1", secret, "")
	if got := p.notify(t, 200, topicA); strings.TrimSpace(got) != `{"rejected":[]}` {
		t.Errorf("a good pushkey: %s", got)
	}
	p.notify(t, 502, topicB) // nobody subscribed yet: not refused
	if n := p.Phones.Counts().Published; n != 1 {
		t.Errorf("%d messages were taken, want 1", n)
	}
	device := func(key string) obj { return obj{"app_id": "a", "pushkey": key} }
	for key, want := range map[string]bool{
		"https://elsewhere.example/" + topicA + "?up=1": true,
		p.url + "/alerts":       true,
		"AAAA-a-firebase-token": true,
		"ftp://x/" + topicA:     true,
		p.url + "/" + topicA:    false,
	} {
		body, _ := json.Marshal(obj{"notification": obj{"event_id": "$e", "devices": []obj{device(key)}}})
		status, b := p.do("POST", unifiedpush.GatewayPath, "", string(body))
		var r struct{ Rejected []string }
		if json.Unmarshal([]byte(b), &r); status != 200 || r.Rejected == nil || slices.Contains(r.Rejected, key) != want {
			t.Errorf("%s: %d %s", key, status, b)
		}
	}
	// Browsers are for our own pushers alone.
	body, _ := json.Marshal(obj{"notification": obj{"event_id": "$e", "devices": []obj{{"app_id": unifiedpush.WebAppID, "pushkey": "k", "data": obj{"endpoint": p.url}}}}})
	if status, b := p.do("POST", unifiedpush.GatewayPath, "", string(body)); status != 200 || !strings.Contains(b, `["k"]`) {
		t.Errorf("somebody may use our key for browsers: %d %s", status, b)
	}
	for name, c := range map[string]struct {
		status int
		code   mx.Code
		body   string
	}{
		"no JSON":       {400, mx.NotJSON, `{`},
		"empty":         {400, mx.MissingParam, `{}`},
		"no object":     {400, mx.BadJSON, `{"notification":[]}`},
		"null":          {400, mx.BadJSON, `{"notification":null}`},
		"no devices":    {400, mx.BadJSON, `{"notification":{"devices":[]}}`},
		"a number":      {400, mx.BadJSON, `{"notification":{"devices":[1]}}`},
		"no pushkey":    {400, mx.BadJSON, `{"notification":{"devices":[{"app_id":"a"}]}}`},
		"many devices":  {413, mx.TooLarge, `{"notification":{"devices":[` + strings.Repeat(`{"app_id":"a","pushkey":"k"},`, 101) + `{}]}}`},
		"oversized":     {413, mx.TooLarge, `{"notification":{"content":"` + strings.Repeat("x", 64<<10) + `"}}`},
		"oversized IDs": {413, mx.TooLarge, `{"notification":{"event_id":"` + strings.Repeat("x", 5000) + `","devices":[{"app_id":"a","pushkey":"` + p.url + "/" + topicA + `"}]}}`},
	} {
		status, b := p.do("POST", unifiedpush.GatewayPath, "", c.body)
		var e struct{ Errcode, Error string }
		if json.Unmarshal([]byte(b), &e); status != c.status || e.Errcode != string(c.code) || e.Error == "" {
			t.Errorf("%s: %d %s, want %d %s", name, status, b, c.status, c.code)
		}
	}
	// A notification that is too large for a phone goes without its content.
	large, _ := json.Marshal(obj{"notification": obj{"event_id": "$large", "room_id": "!r", "counts": obj{"unread": 3}, "content": obj{"body": strings.Repeat("x", 8000)},
		"devices": []obj{device(p.url + "/" + topicA)}}})
	if status, b := p.do("POST", unifiedpush.GatewayPath, "", string(large)); status != 200 {
		t.Fatalf("a large notification: %d %s", status, b)
	}
	_, b := p.do("GET", "/"+topicA+"/json?poll=1&since=latest", secret, "")
	var v hstest.Value
	if json.Unmarshal([]byte(parse(t, b).Message), &v.V); v.At("notification", "event_id").String() != "$large" || v.At("notification", "counts", "unread").V != 3.0 || v.At("notification", "content").V != nil {
		t.Errorf("the phone got %s", b)
	}
}

// With the setting, the gateway pushes to other push servers, too.
func TestForeign(t *testing.T) {
	var got atomic.Pointer[string]
	status := atomic.Int32{}
	status.Store(201)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		s := r.Method + " " + r.URL.Path + " " + r.Header.Get("TTL") + " " + string(b)
		got.Store(&s)
		w.WriteHeader(int(status.Load()))
	}))
	defer other.Close()
	p := newPlace(t, func(o *homeserver.Options) { o.Client = other.Client() })
	p.push.Store(&unifiedpush.Settings{Foreign: true, Keep: time.Hour})
	body, _ := json.Marshal(obj{"notification": obj{"event_id": "$e", "devices": []obj{{"app_id": "a", "pushkey": other.URL + "/abc"}}}})
	for _, c := range []struct {
		status   int
		want     int
		rejected bool
	}{{201, 200, false}, {404, 200, true}, {410, 200, true}, {500, 502, false}, {429, 502, false}, {302, 502, false}} {
		status.Store(int32(c.status))
		have, b := p.do("POST", unifiedpush.GatewayPath, "", string(body))
		if have != c.want || strings.Contains(b, "/abc") != c.rejected {
			t.Errorf("on %d: %d %s", c.status, have, b)
		}
	}
	if s := *got.Load(); !strings.HasPrefix(s, `POST /abc 3600 {"notification":{`) || !strings.Contains(s, `"$e"`) {
		t.Errorf("the other push server got %s", s)
	}
}

// An endpoint that no phone ever subscribes to is refused after a while, and not
// before: then its pusher ends.
func TestNobody(t *testing.T) {
	p := newPlace(t, nil)
	s := unifiedpush.New(unifiedpush.Options{DB: p.DB, Secrets: apitest.Secrets(), Own: func(*url.URL) bool { return true }, UnknownFor: time.Nanosecond})
	defer s.Close()
	body, _ := json.Marshal(obj{"notification": obj{"event_id": "$e", "devices": []obj{{"app_id": "a", "pushkey": "https://x/" + topicA}}}})
	if _, _, err := s.Deliver(context.Background(), "https://x"+unifiedpush.GatewayPath, body); err == nil {
		t.Error("the first push is no error")
	}
	if rejected, ok, err := s.Deliver(context.Background(), "https://x"+unifiedpush.GatewayPath, body); err != nil || !ok || !slices.Equal(rejected, []string{"https://x/" + topicA}) {
		t.Errorf("later: %v %v %v", rejected, ok, err)
	}
	if _, ok, _ := s.Deliver(context.Background(), "https://x/other", body); ok {
		t.Error("another gateway is taken for this one")
	}
	// However many are asked for, memory is bounded.
	for i := range 10_000 {
		body := bytes.ReplaceAll(body, []byte(topicA), fmt.Appendf(nil, "upNobody%08d", i))
		s.Deliver(context.Background(), "https://x"+unifiedpush.GatewayPath, body)
	}
	if n := unifiedpush.Remembered(s); n > 4096 {
		t.Errorf("%d names are remembered", n)
	}
}

// memory is what the program uses after a collection.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// A connection that waits costs so much memory and no more, whatever was pushed to it.
func TestMemoryOfConnections(t *testing.T) {
	const people, each, most = 10, 32, 64 << 10
	p := newPlace(t, nil)
	host := strings.TrimPrefix(p.url, "http://")
	var requests []string
	for i := range people {
		user := p.Login(t, fmt.Sprint("user", i))
		for j := range each / 8 {
			_, secret := p.phone(user.UserID, "")
			topic := fmt.Sprintf("upMemory%03d%03d", i, j)
			p.do("GET", "/"+topic+"/json?poll=1", secret, "")
			p.publish(topic, strings.Repeat("x", 4096))
			for k := range 8 {
				r := "GET /" + topic + "/json?since=all HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + secret + "\r\n\r\n"
				if k%2 == 1 {
					r = "GET /" + topic + "/ws?since=all HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + secret +
						"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
				}
				requests = append(requests, r)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
	before := memory()
	buf := make([]byte, 1<<16)
	for _, r := range requests {
		c, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, r)
		c.SetReadDeadline(time.Now().Add(time.Minute))
		for got := 0; got < 4096; { // its waiting message came
			n, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}
	if n := p.Phones.Counts().Connections; n != len(requests) {
		t.Fatalf("%d connections, want %d", n, len(requests))
	}
	perConnection := (memory() - before) / int64(len(requests))
	t.Logf("%d bytes each", perConnection)
	if perConnection > most {
		t.Errorf("a connection costs %d bytes, at most %d are promised", perConnection, most)
	}
}
