// Package pusher sends notifications to push gateways: the pushers that clients
// set, and what is sent to them.
//
// Invariants: whoever sends an event waits for nothing here. What is to be pushed
// is read from what package push counts as unread, so that a gateway that was away
// is told what is still unread, the newest of it, and nothing twice but what a
// crash kept from being noted. Each pusher sends one request at a time, and waits
// longer after each failure, over a restart too. A pusher ends with the device
// that set it, and when its gateway rejects the pushkey. A locked account is told
// nothing until it is unlocked: then what is still unread.
package pusher

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/push"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/sealed"
)

// Options of New.
type Options struct {
	DB      *store.DB
	Secrets *sealed.Box // seals what pushers are reached by
	Rooms   *rooms.Rooms
	Counter *push.Counter
	Log     *slog.Logger
	// Client makes the requests; it refuses addresses that the server must not reach.
	Client *http.Client
	// Plain allows gateways without TLS, for those in one's own network.
	Plain bool
	// Local takes notifications for the push gateway of this server, without the
	// network; ok is false where a URL is another's. nil: all are another's.
	Local func(ctx context.Context, at string, body []byte) (rejected []string, ok bool, err error)
	// IsLocal reports whether a URL is that of this server's gateway. nil: none is.
	IsLocal func(at string) bool
	// Check reports what is wrong with a pusher that a client sets. nil: nothing.
	Check     func(appID, pushkey, at string, data map[string]any) error
	FirstWait time.Duration // after a failure; 0: defaultWait
	Mail      Mail          // of pushers by e-mail; zero: there are none
	// Held reports whether a user is told nothing for now, as one whose account is
	// locked. Reload is called when that changed. nil: nobody is held.
	Held func(ctx context.Context, userID string) (bool, error)
}

// Service keeps pushers and serves them. Its methods are safe for concurrent use.
type Service struct {
	o      Options
	client *http.Client
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup
	// Requests have a context of their own, which ends later.
	requests context.Context
	abort    context.CancelFunc

	slots chan struct{} // requests under way
	reads chan struct{} // counts under way
	wake  chan struct{}
	any   atomic.Bool // whether there are pushers

	noteMu sync.Mutex // what happened since the dispatcher looked
	notes  notes

	mu      sync.Mutex
	users   map[string]*user
	inRoom  map[string]map[*user]struct{}
	unsaved map[int64]*sender
	closed  bool
}

type notes struct{ rooms, people, members, reload map[string]struct{} }

func newNotes() notes {
	m := func() map[string]struct{} { return map[string]struct{}{} }
	return notes{m(), m(), m(), m()}
}

// New makes the service; Start begins to push.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FirstWait == 0 {
		o.FirstWait = defaultWait
	}
	if o.Mail.Wait == 0 {
		o.Mail.Wait = mailWait
	}
	if o.Mail.Pause == 0 {
		o.Mail.Pause = mailPause
	}
	client := http.Client{Timeout: requestTimeout}
	if o.Client != nil {
		client = *o.Client
		client.Timeout = requestTimeout
	}
	// A gateway is where its URL says.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Service{o: o, client: &client, slots: make(chan struct{}, maxRequests), reads: make(chan struct{}, 2), wake: make(chan struct{}, 1),
		notes: newNotes(), users: map[string]*user{}, inRoom: map[string]map[*user]struct{}{}, unsaved: map[int64]*sender{}}
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	const v3, r0 = "/_matrix/client/v3/", "/_matrix/client/r0/"
	return []route.Route{
		{Op: "getPushers", Pattern: "GET " + v3 + "pushers", Aliases: []string{r0 + "pushers"}, Auth: route.User, Limit: route.Reads, Handle: route.Get(s.get)},
		{Op: "postPusher", Pattern: "POST " + v3 + "pushers/set", Aliases: []string{r0 + "pushers/set"}, Auth: route.User, Limit: route.Reads, MaxBody: 32 << 10,
			Handle: route.JSON(s.set)},
	}
}

type pusherJSON struct {
	Pushkey    string `json:"pushkey"`
	Kind       string `json:"kind"`
	AppID      string `json:"app_id"`
	AppName    string `json:"app_display_name"`
	DeviceName string `json:"device_display_name"`
	Tag        string `json:"profile_tag,omitempty"`
	Lang       string `json:"lang"`
	Data       mx.Raw `json:"data"`
	Enabled    bool   `json:"org.matrix.msc3881.enabled"`
	DeviceID   string `json:"org.matrix.msc3881.device_id,omitempty"`
}

// Spec: cs#get_matrixclientv3pushers
func (s *Service) get(ctx context.Context, r *route.Request) (out struct {
	Pushers []pusherJSON `json:"pushers"`
}, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		out.Pushers, err = s.List(q, r.UserID)
		return err
	})
	return out, err
}

// List gives a user's pushers as their clients see them.
func (s *Service) List(q store.Querier, userID string) ([]pusherJSON, error) {
	rows, err := s.listOf(q, userID)
	out := make([]pusherJSON, 0, len(rows))
	for _, p := range rows {
		out = append(out, pusherJSON{p.pushkey, p.kind(), p.appID, p.appName, p.deviceName, p.tag, p.lang, p.data, p.enabled, p.deviceID})
	}
	return out, err
}

type setRequest struct {
	Kind       mx.Raw         `json:"kind"`
	Pushkey    string         `json:"pushkey"`
	AppID      string         `json:"app_id"`
	AppName    *string        `json:"app_display_name"`
	DeviceName *string        `json:"device_display_name"`
	Tag        string         `json:"profile_tag"`
	Lang       *string        `json:"lang"`
	Data       map[string]any `json:"data"`
	Append     bool           `json:"append"`
	Enabled    *bool          `json:"org.matrix.msc3881.enabled"`
}

// Limits of what clients set, in bytes.
const (
	maxPushkey = 512
	maxAppID   = 64
	maxName    = 255
	maxLang    = 64
	maxData    = 8 << 10
	maxPushers = 50 // of a user
)

// Path of all push gateways. Spec: cs#post_matrixclientv3pushersset (data.url)
const gatewayPath = "/_matrix/push/v1/notify"

// Spec: cs#post_matrixclientv3pushersset
func (s *Service) set(ctx context.Context, r *route.Request, in setRequest) (out route.Empty, err error) {
	var missing []string
	for _, f := range []struct {
		name string
		is   bool
	}{{"kind", in.Kind != nil}, {"app_id", in.AppID != ""}, {"pushkey", in.Pushkey != ""}} {
		if !f.is {
			missing = append(missing, f.name)
		}
	}
	if string(in.Kind) == "null" && missing == nil {
		return out, s.o.DB.Write(ctx, func(tx *store.Tx) error {
			return s.drop(tx, `user_id = $1 AND app_id = $2 AND pushkey = $3`, r.UserID, in.AppID, s.storedKey(in.Pushkey))
		})
	}
	for _, f := range []struct {
		name string
		is   bool
	}{{"app_display_name", in.AppName != nil}, {"device_display_name", in.DeviceName != nil}, {"lang", in.Lang != nil}, {"data", in.Data != nil}} {
		if !f.is {
			missing = append(missing, f.name)
		}
	}
	if missing != nil {
		return out, mx.Errorf(mx.MissingParam, "Missing parameters: %s", strings.Join(missing, ", "))
	}
	var kind string
	if json.Unmarshal(in.Kind, &kind) != nil {
		return out, mx.Errorf(mx.BadJSON, `The kind must be "http", or null to delete the pusher.`)
	}
	if kind != "http" && kind != "email" {
		return out, mx.Errorf(mx.InvalidParam, "There is no kind of pushers called %.20q. Set one of kind \"http\" or \"email\".", kind)
	}
	for _, f := range []struct {
		name, is string
		most     int
	}{{"pushkey", in.Pushkey, maxPushkey}, {"app_id", in.AppID, maxAppID}, {"app_display_name", *in.AppName, maxName},
		{"device_display_name", *in.DeviceName, maxName}, {"profile_tag", in.Tag, maxName}, {"lang", *in.Lang, maxLang}} {
		if len(f.is) > f.most {
			return out, mx.Errorf(mx.InvalidParam, "The %s has at most %d bytes.", f.name, f.most)
		}
	}
	at, deviceID := "", r.DeviceID
	if kind == "email" {
		// E-mail is for when no device is at hand: it does not end with the one that set it.
		deviceID = ""
		at, err = s.mailAt(ctx, r.UserID, in.AppID, in.Pushkey)
	} else {
		at, err = s.gateway(in)
	}
	if err != nil {
		return out, err
	}
	data, err := json.Marshal(in.Data)
	if err != nil {
		return out, err
	}
	if len(data) > maxData {
		return out, mx.Errorf(mx.TooLarge, "The data of a pusher has at most %d bytes.", maxData)
	}
	p := record{userID: r.UserID, deviceID: deviceID, appID: in.AppID, pushkey: in.Pushkey, appName: *in.AppName, deviceName: *in.DeviceName,
		tag: in.Tag, lang: *in.Lang, at: at, data: data, enabled: in.Enabled == nil || *in.Enabled, setTS: time.Now().UnixMilli()}
	return out, s.o.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := s.countOf(tx, p.userID, p.appID, p.pushkey)
		if err != nil {
			return err
		}
		if n >= maxPushers {
			return mx.Errorf(mx.LimitExceeded, "You have %d pushers already. Delete some first.", n)
		}
		if !in.Append {
			if err := s.drop(tx, `app_id = $1 AND pushkey = $2 AND user_id <> $3`, p.appID, s.storedKey(p.pushkey), p.userID); err != nil {
				return err
			}
		}
		p.pos = tx.NextPos()
		tx.AfterCommit(func() { s.reload(p.userID) })
		return s.upsert(tx, p)
	})
}

// gateway checks what is particular to a pusher of kind "http", and gives its URL.
func (s *Service) gateway(in setRequest) (at string, err error) {
	if in.AppID == appEmail {
		return "", mx.Errorf(mx.InvalidParam, "The app_id %q is that of pushers of kind \"email\".", appEmail)
	}
	at, _ = in.Data["url"].(string)
	if err := s.checkURL(at); err != nil {
		return "", err
	}
	if s.o.Check != nil {
		if err := s.o.Check(in.AppID, in.Pushkey, at, in.Data); err != nil {
			return "", err
		}
	}
	if f, ok := in.Data["format"]; ok && f != "event_id_only" {
		return "", mx.Errorf(mx.InvalidParam, "The only format is \"event_id_only\"; leave it out for the full one.")
	}
	return at, nil
}

func (s *Service) checkURL(at string) error {
	if at == "" {
		return mx.Errorf(mx.MissingParam, "Missing parameters: data.url")
	}
	u, err := url.Parse(at)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return mx.Errorf(mx.InvalidParam, "The data.url is not the URL of a push gateway.")
	case u.Scheme != "https" && !(u.Scheme == "http" && (s.o.Plain || s.o.IsLocal != nil && s.o.IsLocal(at))):
		return mx.Errorf(mx.InvalidParam, "The data.url must begin with https://.")
	case u.Path != gatewayPath:
		return mx.Errorf(mx.InvalidParam, "The path of data.url must be %s.", gatewayPath)
	}
	return nil
}

// drop deletes pushers.
func (s *Service) drop(tx *store.Tx, where string, args ...any) error {
	users, err := s.remove(tx, where, args...)
	if len(users) > 0 {
		tx.AfterCommit(func() { s.reload(users...) })
	}
	return err
}

// DeviceDeleted deletes the pushers that a device set: for devices.OnDelete.
func (s *Service) DeviceDeleted(tx *store.Tx, userID, deviceID string) error {
	return s.drop(tx, `user_id = $1 AND device_id = $2`, userID, deviceID)
}

// Deactivated deletes the pushers of an account that is closed.
func (s *Service) Deactivated(tx *store.Tx, userID string) error {
	return s.drop(tx, `user_id = $1`, userID)
}
