package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"holdfast/appliance/settings"
	"holdfast/identity"
	"holdfast/web"
)

// selfTestUser makes the requests of the self-test. Nobody can take the name or
// log in as it: it has no password. It is left out of lists of people.
const selfTestUser = "_selftest"

// selfTest is web.SelfTest: it goes through the appliance's own listener, as a
// client does.
type selfTest struct{ *Appliance }

// SelfTest runs one after the other what people will do.
func (a selfTest) SelfTest(ctx context.Context) ([]web.Check, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := a.selfTestClient()
	if err != nil {
		return nil, err
	}
	defer c.http.CloseIdleConnections()
	var out []web.Check
	for _, step := range []struct {
		name, good, hint string
		run              func(context.Context) error
	}{
		{"login", "Somebody logged in and the token works.", "Look at the appliance's log for component identity.", c.login},
		{"message", "A message was sent, stored and synced.", "Look at the appliance's log for component homeserver, and at the free space of the disk.", c.message},
		{"media", "A file was uploaded and came back unchanged.", "Look at the free space of the disk and at who may write to the data folder.", c.media},
		{"call", "Two test clients joined a call and heard each other through the relay.", "Look whether a firewall on this machine blocks the relay's UDP port (sfu.udp_port).", c.call},
	} {
		begun := time.Now()
		check := web.Check{Name: step.name, OK: true, Detail: step.good}
		if err := step.run(ctx); err != nil {
			check.OK, check.Detail = false, "It did not work: "+err.Error()+". "+step.hint
		}
		check.MS = time.Since(begun).Milliseconds()
		out = append(out, check)
	}
	if c.token != "" {
		if err := c.do(ctx, "POST", "/_matrix/client/v3/logout", nil, nil); err != nil {
			a.log.Warn("the self-test could not log out", "err", err)
		}
	}
	return out, nil
}

// selfTestClient is a client of the appliance's own listener.
type selfTestClient struct {
	a           *Appliance
	base, token string
	http        *http.Client
}

func (a *Appliance) selfTestClient() (*selfTestClient, error) {
	for _, want := range []string{"http", "https"} {
		for _, l := range a.listens {
			if l.name != want {
				continue
			}
			ap, err := netip.ParseAddrPort(l.ln.Addr().String())
			if err != nil {
				return nil, err
			}
			addr := l.ln.Addr().String()
			dials := []string{addr}
			if ap.Addr().IsUnspecified() {
				addr = net.JoinHostPort("localhost", l.port())
				dials = []string{net.JoinHostPort("127.0.0.1", l.port()), net.JoinHostPort("::1", l.port())}
			}
			// Whether the certificate suits the name is not what is tested: the
			// connection goes to this very process. Nor is the name looked up, which
			// not every machine has an address for.
			t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DialContext: func(ctx context.Context, network, _ string) (c net.Conn, err error) {
				for _, d := range dials {
					var dialer net.Dialer
					if c, err = dialer.DialContext(ctx, network, d); err == nil {
						break
					}
				}
				return c, err
			}}
			return &selfTestClient{a: a, base: want + "://" + addr, http: &http.Client{Transport: t}}, nil
		}
	}
	return nil, errors.New("there is no listener for clients")
}

func (c *selfTestClient) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	raw, err := c.raw(ctx, method, path, "application/json", body)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

func (c *selfTestClient) raw(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<22))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		var e struct {
			Error string `json:"error"`
		}
		json.Unmarshal(raw, &e)
		return nil, fmt.Errorf("%s answered %d %s", strings.SplitN(path, "?", 2)[0], resp.StatusCode, e.Error)
	}
	return raw, nil
}

func (c *selfTestClient) login(ctx context.Context) error {
	id := c.a.core.Load().identity
	user := "@" + selfTestUser + ":" + c.a.ServerName()
	_, err := id.CreateUser(ctx, identity.NewUser{Localpart: selfTestUser, DisplayName: "Self-test", Source: "appservice"})
	if err != nil && !errors.Is(err, identity.ErrUserExists) {
		return err
	}
	token, err := id.CreateLoginToken(ctx, user, time.Minute)
	if err != nil {
		return err
	}
	var in struct {
		Token string `json:"access_token"`
	}
	if err := c.do(ctx, "POST", "/_matrix/client/v3/login", map[string]string{"type": "m.login.token", "token": token, "device_id": "SELFTEST"}, &in); err != nil {
		return err
	}
	c.token = in.Token
	var who struct {
		UserID string `json:"user_id"`
	}
	if err := c.do(ctx, "GET", "/_matrix/client/v3/account/whoami", nil, &who); err != nil {
		return err
	}
	if who.UserID != user {
		return fmt.Errorf("the token belongs to %q", who.UserID)
	}
	return nil
}

var errNoLogin = errors.New("nobody could log in")

// selfTestRoom is the room of the messages; one room serves all tests.
func (c *selfTestClient) room(ctx context.Context) (string, error) {
	if id := c.a.settings.Get(settings.SelfTestRoom); id != "" {
		return id, nil
	}
	var made struct {
		RoomID string `json:"room_id"`
	}
	if err := c.do(ctx, "POST", "/_matrix/client/v3/createRoom", map[string]string{"preset": "private_chat", "name": "Self-test"}, &made); err != nil {
		return "", err
	}
	return made.RoomID, c.a.settings.Put(ctx, map[string]string{settings.SelfTestRoom: made.RoomID})
}

func (c *selfTestClient) message(ctx context.Context) error {
	if c.token == "" {
		return errNoLogin
	}
	room, err := c.room(ctx)
	if err != nil {
		return err
	}
	var sync struct {
		Next  string `json:"next_batch"`
		Rooms struct {
			Join map[string]struct {
				Timeline struct {
					Events []struct {
						ID string `json:"event_id"`
					}
				}
			}
		}
	}
	if err := c.do(ctx, "GET", "/_matrix/client/v3/sync?timeout=0", nil, &sync); err != nil {
		return err
	}
	var sent struct {
		ID string `json:"event_id"`
	}
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/send/m.room.message/" + fmt.Sprint(time.Now().UnixNano())
	if err := c.do(ctx, "PUT", path, map[string]string{"msgtype": "m.notice", "body": "Self-test"}, &sent); err != nil {
		return err
	}
	since := sync.Next
	for range 5 {
		sync.Rooms.Join = nil
		if err := c.do(ctx, "GET", "/_matrix/client/v3/sync?timeout=3000&since="+url.QueryEscape(since), nil, &sync); err != nil {
			return err
		}
		for _, e := range sync.Rooms.Join[room].Timeline.Events {
			if e.ID == sent.ID {
				return nil
			}
		}
		since = sync.Next
	}
	return errors.New("the message did not arrive")
}

func (c *selfTestClient) media(ctx context.Context) error {
	if c.token == "" {
		return errNoLogin
	}
	file := bytes.Repeat([]byte("Holdfast self-test. "), 4096) // always the same, so it is stored once
	raw, err := c.raw(ctx, "POST", "/_matrix/media/v3/upload?filename=self-test.txt", "text/plain", file)
	if err != nil {
		return err
	}
	var up struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(raw, &up); err != nil {
		return err
	}
	back, err := c.raw(ctx, "GET", "/_matrix/client/v1/media/download/"+strings.TrimPrefix(up.URI, "mxc://"), "", nil)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, file) {
		return errors.New("the file came back changed")
	}
	return nil
}

// call asks for a token as a member of a room does, and has the relay carry sound
// between two clients of its own.
func (c *selfTestClient) call(ctx context.Context) error {
	if c.a.sfu == nil {
		return errors.New("calls are switched off (sfu.enabled)")
	}
	if c.token == "" {
		return errNoLogin
	}
	if err := c.callToken(ctx); err != nil {
		return err
	}
	_, err := c.a.sfu.SelfTest(ctx)
	return err
}
