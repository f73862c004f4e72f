package appliance

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/appliance/settings"
	"holdfast/homeserver/push/unifiedpush"
	"holdfast/homeserver/push/webpush"
	"holdfast/identity"
	"holdfast/store"
	"holdfast/web"
)

// leadsHere reports whether a URL leads to this appliance: to public_url, or to a
// name or address of ours on the port of a listener. It serves requests that the
// server would make to itself.
func (a *Appliance) leadsHere(u *url.URL) bool {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	for _, at := range []string{a.publicURL(), a.sharedURL()} {
		p, err := url.Parse(at)
		if err != nil || p.Scheme != u.Scheme {
			continue
		}
		own := p.Port()
		if own == "" {
			own = map[string]string{"https": "443", "http": "80"}[p.Scheme]
		}
		if strings.EqualFold(p.Hostname(), host) && own == port {
			return true
		}
	}
	for _, l := range a.listens {
		if l.port() != port {
			continue
		}
		switch {
		case l.name == "https" && u.Scheme == "https":
			return a.ownName(host)
		case l.name == "http" && u.Scheme == "http":
			addr, err := netip.ParseAddr(host)
			return host == "localhost" || err == nil && addr.IsLoopback() && l.reaches(addr)
		}
	}
	return false
}

// webPushKey is the private key by which browsers know this appliance. It is made
// when it is asked for first, and lies sealed in the settings.
func (a *Appliance) webPushKey(ctx context.Context, c *core) ([]byte, error) {
	a.pushKeyMu.Lock()
	defer a.pushKeyMu.Unlock()
	if sealed := a.settings.Get(settings.PushWebKey); sealed != "" {
		text, err := c.identity.Unseal(sealed)
		if err != nil {
			return nil, fmt.Errorf("the key for Web Push cannot be read: %w", err)
		}
		return base64.RawStdEncoding.DecodeString(text)
	}
	key, err := webpush.NewKey()
	if err != nil {
		return nil, err
	}
	sealed, err := c.identity.Seal(base64.RawStdEncoding.EncodeToString(key))
	if err != nil {
		return nil, err
	}
	return key, a.settings.Put(ctx, map[string]string{settings.PushWebKey: sealed})
}

// pushRules are what an administrator decided about push, in the form in which it is
// typed.
type pushRules struct {
	Keep    string `json:"keep"`    // duration
	Foreign string `json:"foreign"` // "on" or "off"
}

const (
	standardPushKeep    = "12h"
	standardPushForeign = "off"
	shortestPushKeep    = time.Minute
	longestPushKeep     = 30 * 24 * time.Hour
)

func (a *Appliance) pushRules() pushRules {
	r := pushRules{a.settings.Get(settings.PushKeep), a.settings.Get(settings.PushForeign)}
	if r.Keep == "" {
		r.Keep = standardPushKeep
	}
	if r.Foreign == "" {
		r.Foreign = standardPushForeign
	}
	return r
}

func (r pushRules) parse() (set unifiedpush.Settings, err error) {
	if set.Keep, err = parseDuration(r.Keep); err != nil || set.Keep < shortestPushKeep || set.Keep > longestPushKeep {
		return set, fmt.Errorf("--keep %q is no time between a minute and 30 days; write for example 12h or 3d", r.Keep)
	}
	if r.Foreign != "on" && r.Foreign != "off" {
		return set, fmt.Errorf("--foreign is on or off, not %q", r.Foreign)
	}
	set.Foreign = r.Foreign == "on"
	return set, nil
}

// setPushRules changes the rules that are not empty.
func (a *Appliance) setPushRules(ctx context.Context, change pushRules) error {
	all, values := a.pushRules(), map[string]string{}
	if change.Keep != "" {
		all.Keep, values[settings.PushKeep] = change.Keep, change.Keep
	}
	if change.Foreign != "" {
		all.Foreign, values[settings.PushForeign] = change.Foreign, change.Foreign
	}
	if _, err := all.parse(); err != nil {
		return err
	}
	return a.settings.Put(ctx, values)
}

// pushSettings is what the homeserver is told about push. It is asked for each
// message, so the standard costs no parsing.
func (a *Appliance) pushSettings() unifiedpush.Settings {
	if a.settings.Get(settings.PushKeep) == "" && a.settings.Get(settings.PushForeign) == "" {
		return unifiedpush.Settings{}
	}
	set, err := a.pushRules().parse()
	if err != nil { // an older version wrote them
		a.log.Error("the rules for push cannot be read; set them anew with holdfast push set", "err", err)
		return unifiedpush.Settings{}
	}
	return set
}

// phoneInfo is a phone as the command line prints it.
type phoneInfo struct {
	ID        int64     `json:"id"`
	UserID    string    `json:"user_id"`
	DeviceID  string    `json:"device_id,omitempty"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	LastSeen  time.Time `json:"last_seen,omitzero"`
	Topics    int       `json:"topics"`
	Connected bool      `json:"connected"`
}

// newPhone is a phone with what its app has to be told, once.
type newPhone struct {
	phoneInfo
	Server   string `json:"server"`
	User     string `json:"user"`
	Password string `json:"password"`
}

type phoneRequest struct {
	User   string `json:"user"`
	Device string `json:"device"`
	Name   string `json:"name"`
}

func toPhoneInfo(p unifiedpush.Phone) phoneInfo { return phoneInfo(p) }

// addPhone makes a phone of a person for its app.
func (a *Appliance) addPhone(ctx context.Context, userID, deviceID, name string) (out newPhone, err error) {
	c := a.core.Load()
	u, err := c.identity.User(ctx, userID)
	if err == nil {
		err = u.Err()
	}
	if err != nil {
		return out, err
	}
	p, secret, err := c.hs.Phones.AddPhone(ctx, u.UserID, deviceID, name)
	return newPhone{toPhoneInfo(p), a.sharedURL(), u.Localpart, secret}, err
}

// pushControl are the operations of the local socket about push.
func (a *Appliance) pushControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/push", func(*http.Request) (any, error) { return a.pushRules(), nil })
	handle("PUT /v1/push", func(r *http.Request) (any, error) {
		var in pushRules
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		err := a.setPushRules(r.Context(), in)
		return a.pushRules(), err
	})
	handle("GET /v1/push/phones", func(r *http.Request) (any, error) {
		user := r.URL.Query().Get("user")
		if user != "" {
			user = a.userID(user)
		}
		list, err := a.core.Load().hs.Phones.Phones(r.Context(), user)
		out := make([]phoneInfo, 0, len(list))
		for _, p := range list {
			out = append(out, toPhoneInfo(p))
		}
		return out, err
	})
	handle("POST /v1/push/phones", func(r *http.Request) (any, error) {
		var in phoneRequest
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		return a.addPhone(r.Context(), a.userID(in.User), in.Device, in.Name)
	})
	handle("DELETE /v1/push/phones/{user}/{id}", func(r *http.Request) (any, error) {
		id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
		if err != nil {
			return nil, unifiedpush.ErrNoPhone
		}
		return struct{}{}, a.core.Load().hs.Phones.EndPhone(r.Context(), a.userID(r.PathValue("user")), id)
	})
}

func runPushSet(ctx context.Context, c *cli, _ []string) error {
	if c.push == (pushRules{}) {
		return &usageError{"say what to change, such as --keep 24h"}
	}
	return c.pushRules(ctx, "PUT", c.push)
}

func runPushShow(ctx context.Context, c *cli, _ []string) error { return c.pushRules(ctx, "GET", nil) }

func (c *cli) pushRules(ctx context.Context, method string, in any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var r pushRules
	if err := cl.call(ctx, method, "/v1/push", in, &r); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(r)
	}
	fmt.Fprintf(c.out, "A message waits for its phone:   %s\nTo push servers of others:       %s\n", r.Keep, r.Foreign)
	return nil
}

func runPushAdd(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var p newPhone
	if err := cl.call(ctx, "POST", "/v1/push/phones", phoneRequest{args[0], c.device, c.displayName}, &p); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(p)
	}
	fmt.Fprintf(c.out, "In the ntfy app: Settings, \"Default server\" is the server. Then Settings, \"Manage users\",\nadd the user for this server.\n\nServer:    %s\nUser:      %s\nPassword:  %s\n\nThe password is not shown again. It is in this code, too:\n\n", p.Server, p.User, p.Password)
	writeQR(c.out, p.Password)
	return nil
}

func runPushList(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	path := "/v1/push/phones"
	if len(args) > 0 {
		path += "?user=" + url.QueryEscape(args[0])
	}
	var list []phoneInfo
	if err := cl.call(ctx, "GET", path, nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "No phone fetches its notifications from here. People add theirs on their account's page, or: holdfast push add NAME.")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tUSER\tPHONE\tENDS WITH\tAPPS\tLAST SEEN")
	for _, p := range list {
		seen := "never"
		switch {
		case p.Connected:
			seen = "connected"
		case !p.LastSeen.IsZero():
			seen = p.LastSeen.Local().Format("2006-01-02 15:04")
		}
		ends := p.DeviceID
		if ends == "" {
			ends = "-"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\n", p.ID, p.UserID, p.Name, ends, p.Topics, seen)
	}
	return w.Flush()
}

func runPushEnd(ctx context.Context, c *cli, args []string) error {
	if _, err := strconv.ParseInt(args[1], 10, 64); err != nil {
		return &usageError{fmt.Sprintf("%q is no ID of a phone; holdfast push list shows them", args[1])}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.call(ctx, "DELETE", "/v1/push/phones/"+url.PathEscape(args[0])+"/"+args[1], nil, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "The phone gets no notifications any more.")
	return nil
}

// phones are the phones of people as their account's page shows them.
type phones struct {
	a *Appliance
	c *core
}

var _ identity.Phones = phones{}

// Phones implements identity.Phones.
func (p phones) Phones(ctx context.Context, userID string) ([]identity.Phone, error) {
	list, err := p.c.hs.Phones.Phones(ctx, userID)
	out := make([]identity.Phone, 0, len(list))
	for _, x := range list {
		out = append(out, identity.Phone{ID: x.ID, Name: x.Name, DeviceID: x.DeviceID, LastSeen: x.LastSeen, Connected: x.Connected})
	}
	return out, err
}

// AddPhone implements identity.Phones.
func (p phones) AddPhone(ctx context.Context, userID, deviceID, name string) (identity.NewPhone, error) {
	n, err := p.a.addPhone(ctx, userID, deviceID, name)
	switch {
	case errors.Is(err, unifiedpush.ErrName):
		err = identity.ErrPhoneName
	case errors.Is(err, unifiedpush.ErrNoDevice):
		err = identity.ErrPhoneDevice
	case errors.Is(err, unifiedpush.ErrPhones):
		err = identity.ErrManyPhones
	}
	if err != nil {
		return identity.NewPhone{}, err
	}
	svg, err := web.QRCode(n.Password)
	return identity.NewPhone{Server: n.Server, User: n.User, Password: n.Password, QR: template.HTML(svg)}, err
}

// EndPhone implements identity.Phones.
func (p phones) EndPhone(ctx context.Context, userID string, id int64) error {
	err := p.c.hs.Phones.EndPhone(ctx, userID, id)
	if errors.Is(err, unifiedpush.ErrNoPhone) {
		return nil
	}
	return err
}

// Push implements web.Push.
func (a console) Push(ctx context.Context) (out web.PushReport, err error) {
	hs := a.core.Load().hs
	var s unifiedpush.Stats
	err = a.db.Read(ctx, func(q store.Querier) (err error) {
		s, err = hs.Phones.Stats(q)
		return err
	})
	if err != nil {
		return out, err
	}
	rules, err := a.pushRules().parse()
	if err != nil {
		return out, err
	}
	out = web.PushReport{Phones: s.Phones, Connections: s.Connections, Topics: s.Topics, Waiting: s.Waiting, Keep: int64(rules.Keep / time.Second), Foreign: rules.Foreign}
	for _, t := range hs.Pushers.Troubles() {
		out.Troubles = append(out.Troubles, web.PushTrouble{Gateway: t.Gateway, Pushers: t.Pushers, Next: t.Next, Error: t.Err})
	}
	return out, nil
}
