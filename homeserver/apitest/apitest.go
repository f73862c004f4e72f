// Package apitest lets the tests of one domain package send requests to its
// routes, on a real store, without the rest of the homeserver.
//
// Invariants: it is imported by tests only; it stands in for the identity
// provider (a token names its user and device) and for nothing else.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/sealed"
)

// Server is the server name of the tests.
const Server = "example.org"

// Secrets seals in tests; it is the same in each, so that a store can be opened again.
func Secrets() *sealed.Box {
	b, err := sealed.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		panic(err)
	}
	return b
}

// DB opens an empty store that ends with the test.
func DB(t testing.TB) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "holdfast.db"), store.Options{Readers: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// API serves routes.
type API struct {
	t testing.TB
	h http.Handler
}

// New serves routes to tests.
func New(t testing.TB, routes ...[]route.Route) *API {
	t.Helper()
	var all []route.Route
	for _, r := range routes {
		all = append(all, r...)
	}
	return &API{t, route.NewServer(tokens{}, slog.New(slog.NewTextHandler(t.Output(), nil)), false, all)}
}

// tokens understands "user|device", "user|device|appservice" and "user|device||suspended".
type tokens struct{}

func (tokens) Authenticate(_ context.Context, token string) (route.Principal, error) {
	part := strings.Split(token, "|")
	if len(part) < 2 {
		return route.Principal{}, mx.Errorf(mx.UnknownToken, "unknown token")
	}
	p := route.Principal{UserID: part[0], DeviceID: part[1]}
	if len(part) > 2 {
		p.Appservice = part[2]
	}
	p.Suspended = len(part) > 3
	return p, nil
}

// Client sends requests as one device.
type Client struct {
	api    *API
	token  string
	UserID string
	Header http.Header // sent with each request
}

// As is a client of a local user's device.
func (a *API) As(localpart, device string) *Client {
	id := mx.UserID(localpart, Server)
	return &Client{a, id + "|" + device, id, http.Header{}}
}

// AsAppservice is a client of an application service that acts for a user.
func (a *API) AsAppservice(localpart, device, appservice string) *Client {
	c := a.As(localpart, device)
	c.token += "|" + appservice
	return c
}

// AsSuspended is a client of a suspended user's device.
func (a *API) AsSuspended(localpart, device string) *Client {
	c := a.As(localpart, device)
	c.token += "||suspended"
	return c
}

// Nobody is a client without a token.
func (a *API) Nobody() *Client { return &Client{a, "", "", http.Header{}} }

// In is the client with failures reported to another test: inside fuzz targets
// and subtests.
func (c *Client) In(t testing.TB) *Client {
	out := *c
	out.api = &API{t, c.api.h}
	return &out
}

// Answer is what the server said.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Raw sends a request with a body as it is.
func (c *Client) Raw(method, path, contentType string, body io.Reader) Answer {
	c.api.t.Helper()
	r := httptest.NewRequest(method, path, body)
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for k, v := range c.Header {
		r.Header[k] = v
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	c.api.h.ServeHTTP(w, r)
	return Answer{w.Code, w.Header(), w.Body.Bytes()}
}

// Do sends a request. body nil: none; a string is sent as it is.
func (c *Client) Do(method, path string, body any) Answer {
	c.api.t.Helper()
	var b []byte
	switch v := body.(type) {
	case nil:
	case string:
		b = []byte(v)
	default:
		var err error
		if b, err = json.Marshal(v); err != nil {
			c.api.t.Fatal(err)
		}
	}
	return c.Raw(method, path, "application/json", bytes.NewReader(b))
}

// OK is Do, which must answer 200. The answer is decoded into out unless it is nil.
func (c *Client) OK(method, path string, body, out any) Answer {
	c.api.t.Helper()
	a := c.Do(method, path, body)
	if a.Status != http.StatusOK {
		c.api.t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	if out != nil {
		if err := json.Unmarshal(a.Body, out); err != nil {
			c.api.t.Fatalf("%s %s: %v in %s", method, path, err, a.Body)
		}
	}
	return a
}

// Fails is Do, which must answer with a status and an error code.
func (c *Client) Fails(method, path string, body any, status int, code mx.Code) Answer {
	c.api.t.Helper()
	a := c.Do(method, path, body)
	a.Want(c.api.t, status, code)
	return a
}

// Want checks an error.
func (a Answer) Want(t testing.TB, status int, code mx.Code) {
	t.Helper()
	var e struct {
		Code mx.Code `json:"errcode"`
	}
	json.Unmarshal(a.Body, &e)
	if a.Status != status || e.Code != code {
		t.Fatalf("want %d %s, got %d %s", status, code, a.Status, a.Body)
	}
}

// JSON decodes the answer as an object.
func (a Answer) JSON(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.Body, &m); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
	return m
}

// Rooms are rooms with members, as far as the domain packages ask: room ID → who
// is joined.
type Rooms map[string][]string

// JoinedRooms lists where a user is joined.
func (r Rooms) JoinedRooms(_ store.Querier, userID string) (out []string, err error) {
	for room, members := range r {
		for _, m := range members {
			if m == userID {
				out = append(out, room)
			}
		}
	}
	return out, nil
}

// Members lists who is joined to a room.
func (r Rooms) Members(_ store.Querier, roomID, membership string) ([]string, error) {
	if membership != mx.Join {
		return nil, nil
	}
	return r[roomID], nil
}

// Membership is "join" or "".
func (r Rooms) Membership(_ store.Querier, roomID, userID string) (string, error) {
	for _, m := range r[roomID] {
		if m == userID {
			return mx.Join, nil
		}
	}
	return "", nil
}

// SharedUsers lists who shares a room with a user, without the user.
func (r Rooms) SharedUsers(_ store.Querier, userID string) ([]string, error) {
	seen := map[string]bool{userID: true}
	var out []string
	rooms, _ := r.JoinedRooms(nil, userID)
	for _, room := range rooms {
		for _, m := range r[room] {
			if !seen[m] {
				seen[m] = true
				out = append(out, m)
			}
		}
	}
	return out, nil
}
