// Package hstest runs a whole homeserver in a test, on a real store in a temporary
// folder, and gives clients to write scenarios with.
//
// Invariants: it is imported by tests only; requests go through the real handler;
// of the appliance only the identity provider is stood in for.
package hstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver"
	"holdfast/homeserver/apitest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/blob"
)

// Server is the server name of the tests.
const Server = "example.org"

// HS is a running homeserver.
type HS struct {
	*homeserver.Homeserver
	DB  *store.DB
	URL string

	t      testing.TB
	dir    string
	web    *httptest.Server
	tokens *tokens
	// accounts is the identity provider, unless the options name another.
	accounts *accounts
	opt      homeserver.Options
	n        int
}

type tokens struct {
	mu sync.RWMutex
	m  map[string]route.Principal
	// users are all that ever had a token or made an account.
	users    map[string]bool
	accounts *accounts
}

func (a *tokens) Authenticate(_ context.Context, token string) (route.Principal, error) {
	a.mu.RLock()
	p, ok := a.m[token]
	a.mu.RUnlock()
	if !ok {
		return p, mx.Errorf(mx.UnknownToken, "unknown token")
	}
	return a.accounts.principal(p)
}

func (a *tokens) put(token string, p route.Principal) {
	a.mu.Lock()
	a.m[token], a.users[p.UserID] = p, true
	a.mu.Unlock()
}

// drop removes the tokens that match names and returns whose they were.
func (a *tokens) drop(match func(token string, p route.Principal) bool) (out []route.Principal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for t, p := range a.m {
		if match(t, p) {
			delete(a.m, t)
			out = append(out, p)
		}
	}
	return out
}

// New starts a homeserver that ends with the test. change, which may be nil,
// changes its options first.
func New(t testing.TB, change func(o *homeserver.Options)) *HS {
	t.Helper()
	hs := &HS{t: t, dir: t.TempDir(), tokens: &tokens{m: map[string]route.Principal{}, users: map[string]bool{}}}
	hs.accounts = newAccounts(hs)
	hs.tokens.accounts = hs.accounts
	hs.opt = homeserver.Options{ServerName: Server, Tokens: hs.tokens, Accounts: hs.accounts, Standing: hs.accounts.Standing,
		PublicURL: func(*http.Request) string { return hs.URL },
		Log:       slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if change != nil {
		change(&hs.opt)
	}
	hs.start()
	t.Cleanup(hs.Stop)
	return hs
}

func (hs *HS) start() {
	hs.t.Helper()
	ctx := context.Background()
	var err error
	if hs.DB, err = store.Open(ctx, filepath.Join(hs.dir, "holdfast.db"), store.Options{Readers: 1}); err != nil {
		hs.t.Fatal(err)
	}
	blobs, err := blob.Open(filepath.Join(hs.dir, "blobs"))
	if err != nil {
		hs.t.Fatal(err)
	}
	o := hs.opt
	o.DB, o.Blobs, o.Secrets = hs.DB, blobs, apitest.Secrets()
	if hs.Homeserver, err = homeserver.New(ctx, o); err != nil {
		hs.t.Fatal(err)
	}
	hs.web = httptest.NewServer(hs.Handler())
	hs.URL = hs.web.URL
}

// Stop ends the homeserver and closes its store.
func (hs *HS) Stop() {
	if hs.web == nil {
		return
	}
	hs.web.CloseClientConnections()
	hs.web.Close()
	hs.web = nil
	hs.Homeserver.Close()
	if err := hs.DB.Close(); err != nil {
		hs.t.Error(err)
	}
}

// Restart stops the homeserver and starts it anew on the same folder.
func (hs *HS) Restart() {
	hs.t.Helper()
	hs.Stop()
	hs.start()
}

// Client is a user's device. Its methods fail the test where they return no error.
type Client struct {
	hs       *HS
	t        testing.TB
	UserID   string
	DeviceID string
	Token    string
	Since    string // token of the last Sync
	Filter   string // of Sync
}

// Login makes the account, unless it is there, and a new device.
func (hs *HS) Login(t testing.TB, name string) *Client {
	t.Helper()
	hs.n++
	c := &Client{hs: hs, t: t, UserID: mx.UserID(name, Server), DeviceID: fmt.Sprintf("DEV%d", hs.n), Token: fmt.Sprintf("token-%d", hs.n)}
	err := hs.DB.Write(context.Background(), func(tx *store.Tx) error {
		ids, err := hs.Devices.IDs(tx, c.UserID)
		if err == nil && len(ids) == 0 {
			err = hs.SetDisplayName(tx, c.UserID, name)
		}
		if err != nil {
			return err
		}
		return hs.UpsertDevice(tx, c.UserID, c.DeviceID, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	hs.tokens.put(c.Token, route.Principal{UserID: c.UserID, DeviceID: c.DeviceID})
	return c
}

// Admin is Login as an administrator.
func (hs *HS) Admin(t testing.TB, name string) *Client {
	t.Helper()
	c := hs.Login(t, name)
	hs.tokens.mu.Lock()
	hs.tokens.m[c.Token] = route.Principal{UserID: c.UserID, DeviceID: c.DeviceID, Admin: true}
	hs.tokens.mu.Unlock()
	return c
}

// Answer is an answer in JSON.
type Answer struct {
	Status int
	Body   []byte
	JSON   Value
}

// Do sends a request. Paths begin after "/_matrix/client/v3" unless with "/_".
func (c *Client) Do(method, path string, body any) Answer {
	c.t.Helper()
	a, err := c.do(context.Background(), method, path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *Client) do(ctx context.Context, method, path string, body any) (a Answer, err error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return a, err
		}
		r = bytes.NewReader(j)
	}
	if !strings.HasPrefix(path, "/_") && !strings.HasPrefix(path, "/.") {
		path = "/_matrix/client/v3" + path
	}
	req, err := http.NewRequestWithContext(ctx, method, c.hs.URL+path, r)
	if err != nil {
		return a, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.hs.web.Client().Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.Status = resp.StatusCode
	if a.Body, err = io.ReadAll(resp.Body); err != nil {
		return a, err
	}
	json.Unmarshal(a.Body, &a.JSON.V)
	return a, nil
}

// Answer sends a request as nobody.
func (hs *HS) Answer(t testing.TB, req *http.Request) (a Answer) {
	t.Helper()
	resp, err := hs.web.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a.Status = resp.StatusCode
	if a.Body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	json.Unmarshal(a.Body, &a.JSON.V)
	return a
}

// Must sends a request that has to succeed.
func (c *Client) Must(method, path string, body any) Value {
	c.t.Helper()
	a := c.Do(method, path, body)
	if a.Status != 200 {
		c.t.Fatalf("%s: %s %s: %d %s", c.UserID, method, path, a.Status, a.Body)
	}
	return a.JSON
}

// Fails sends a request that has to fail with a code.
func (c *Client) Fails(status int, code mx.Code, method, path string, body any) {
	c.t.Helper()
	a := c.Do(method, path, body)
	if a.Status != status || a.JSON.At("errcode").String() != string(code) {
		c.t.Fatalf("%s: %s %s: %d %s, want %d %s", c.UserID, method, path, a.Status, a.Body, status, code)
	}
}

// Obj is a JSON object.
type Obj = map[string]any

// CreateRoom makes a room and returns its ID.
func (c *Client) CreateRoom(o Obj) string {
	c.t.Helper()
	if o == nil {
		o = Obj{}
	}
	return c.Must("POST", "/createRoom", o).At("room_id").String()
}

// Room is the path of a room.
func Room(roomID string) string { return "/rooms/" + url.PathEscape(roomID) }

// Join joins a room.
func (c *Client) Join(roomID string) {
	c.t.Helper()
	c.Must("POST", Room(roomID)+"/join", Obj{})
}

// Leave leaves a room.
func (c *Client) Leave(roomID string) {
	c.t.Helper()
	c.Must("POST", Room(roomID)+"/leave", Obj{})
}

// Invite invites somebody.
func (c *Client) Invite(roomID string, other *Client) {
	c.t.Helper()
	c.Must("POST", Room(roomID)+"/invite", Obj{"user_id": other.UserID})
}

var txn struct {
	sync.Mutex
	n int
}

// Txn is a new transaction ID.
func Txn() string {
	txn.Lock()
	defer txn.Unlock()
	txn.n++
	return fmt.Sprintf("t%d", txn.n)
}

// Send sends a text and returns the event's ID.
func (c *Client) Send(roomID, text string) string {
	c.t.Helper()
	return c.SendEvent(roomID, mx.RoomMessage, Obj{"msgtype": "m.text", "body": text})
}

// SendEvent sends an event and returns its ID.
func (c *Client) SendEvent(roomID, typ string, content Obj) string {
	c.t.Helper()
	return c.Must("PUT", Room(roomID)+"/send/"+typ+"/"+Txn(), content).At("event_id").String()
}

// SendState sends a state event and returns its ID.
func (c *Client) SendState(roomID, typ, key string, content Obj) string {
	c.t.Helper()
	return c.Must("PUT", Room(roomID)+"/state/"+typ+"/"+url.PathEscape(key), content).At("event_id").String()
}

// Redact redacts an event and returns the redaction's ID.
func (c *Client) Redact(roomID, eventID string) string {
	c.t.Helper()
	return c.Must("PUT", Room(roomID)+"/redact/"+url.PathEscape(eventID)+"/"+Txn(), Obj{}).At("event_id").String()
}

// Sync asks for what is new and moves Since on. params are further parameters.
func (c *Client) Sync(params ...string) Value {
	c.t.Helper()
	v := c.SyncFrom(c.Since, params...)
	c.Since = v.At("next_batch").String()
	return v
}

// SyncFrom asks for what is new since a token.
func (c *Client) SyncFrom(since string, params ...string) Value {
	c.t.Helper()
	return c.Must("GET", c.syncPath(since, params...), nil)
}

func (c *Client) syncPath(since string, params ...string) string {
	q := url.Values{}
	if since != "" {
		q.Set("since", since)
	}
	if c.Filter != "" {
		q.Set("filter", c.Filter)
	}
	for _, p := range params {
		k, v, _ := strings.Cut(p, "=")
		q.Set(k, v)
	}
	return "/sync?" + q.Encode()
}

// SyncUntil syncs until an answer satisfies ok, for at most 5 seconds.
func (c *Client) SyncUntil(ok func(v Value) bool) Value {
	c.t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if v := c.Sync("timeout=1000"); ok(v) {
			return v
		}
	}
	c.t.Fatalf("%s: nothing of the kind came in a sync", c.UserID)
	return Value{}
}

// stuck is how long a test waits for what must come at once, before it says that
// it hangs. It measures nothing: a busy machine must not fail a test.
const stuck = time.Minute

// Woken is the answer of a long poll that waits while do runs: only what do does
// can end it. The token moves on.
func (c *Client) Woken(do func()) Value {
	c.t.Helper()
	wait := c.SyncAsync(context.Background(), "timeout=300000")
	time.Sleep(50 * time.Millisecond) // likelier to be waiting by now; right either way
	do()
	select {
	case a := <-wait:
		if a.Status != 200 {
			c.t.Fatalf("sync: %d %s", a.Status, a.Body)
		}
		c.Since = a.JSON.At("next_batch").String()
		return a.JSON
	case <-time.After(stuck):
		c.t.Fatal("the waiting sync was not woken")
		panic("unreachable")
	}
}

// Async starts a request and returns where its answer comes.
func (c *Client) Async(ctx context.Context, method, path string, body any) <-chan Answer {
	out := make(chan Answer, 1)
	go func() {
		a, err := c.do(ctx, method, path, body)
		if err != nil {
			a.Body = []byte(err.Error())
		}
		out <- a
	}()
	return out
}

// SyncAsync starts a sync and returns where its answer comes.
func (c *Client) SyncAsync(ctx context.Context, params ...string) <-chan Answer {
	out := make(chan Answer, 1)
	path := c.syncPath(c.Since, params...)
	go func() {
		a, err := c.do(ctx, "GET", path, nil)
		if err != nil {
			a.Body = []byte(err.Error())
		}
		out <- a
	}()
	return out
}
