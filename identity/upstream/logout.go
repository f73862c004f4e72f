package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"holdfast/identity/account"
	"holdfast/identity/saml"
	"holdfast/store"
	"holdfast/store/audit"
)

// How far from now a logout token may have been made.
const (
	logoutOld   = 10 * time.Minute
	logoutAhead = 2 * time.Minute
)

// refetchEvery is how often at most a provider is asked for its keys, and for what it is,
// on behalf of logout tokens: anybody can send one.
const refetchEvery = time.Minute

// errSoon is a token whose key is not known, so soon after the keys were fetched.
var errSoon = errors.New("its key is not among those that the provider had a moment ago")

// sparing lets something happen no oftener than every refetchEvery.
type sparing struct{ next time.Time }

func (s *sparing) may(now time.Time) bool {
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(refetchEvery)
	return true
}

// keys are those that the logout tokens of a provider are signed with. The library asks for
// them again whenever a token is not signed by one that it has.
type keys struct {
	*oidc.RemoteKeySet

	mu    sync.Mutex
	fetch sparing
	now   func() time.Time
	rt    http.RoundTripper
}

// RoundTrip fetches keys. Errors: errSoon.
func (k *keys) RoundTrip(r *http.Request) (*http.Response, error) {
	k.mu.Lock()
	may := k.fetch.may(k.now())
	k.mu.Unlock()
	if !may {
		return nil, errSoon
	}
	return k.rt.RoundTrip(r)
}

// keysOf are the keys of a provider as it described itself last. Errors: ErrNone, ErrDown.
func (u *Upstreams) keysOf(ctx context.Context, id string) (*keys, *opened, error) {
	u.mu.Lock()
	o := u.open[id]
	heard := o != nil && o.p != nil
	soon := o != nil && !heard && o.saml == nil && !o.asks.may(u.o.Now())
	u.mu.Unlock()
	if soon {
		return nil, nil, fmt.Errorf("%w: it did not answer a moment ago", ErrDown)
	}
	if !heard {
		if _, _, err := u.provider(ctx, id, false); err != nil {
			return nil, nil, err
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if o.p == nil { // it was set anew meanwhile
		return nil, nil, fmt.Errorf("%w: it was not asked yet", ErrDown)
	}
	if o.keys == nil {
		var said struct {
			At string `json:"jwks_uri"`
		}
		if err := o.p.Claims(&said); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrDown, err)
		}
		c := *o.http
		k := &keys{now: u.o.Now, rt: c.Transport}
		c.Transport = k
		k.RemoteKeySet = oidc.NewRemoteKeySet(oidc.ClientContext(ctx, &c), said.At)
		o.keys = k
	}
	return o.keys, o, nil
}

// From is the session at a provider that one here began with. Of OpenID Connect it has the
// subject as name ID, and sid, where there is one, as index.
type From struct {
	Upstream string       `json:"u"`
	Session  saml.Session `json:"s"`
	// At is when the person proved there who they are; zero: the provider does not say.
	At time.Time `json:"t,omitzero"`
}

// Began notes the session there that one here came from. It is to be called when that
// has begun.
func (u *Upstreams) Began(ctx context.Context, x account.User, sid string, from From) error {
	u.mu.Lock()
	o := u.open[from.Upstream]
	u.mu.Unlock()
	if o == nil {
		return ErrNone
	}
	c := o.c
	data, err := json.Marshal(from.Session)
	if err != nil {
		return err
	}
	return u.o.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO id_upstream_sessions (sid, user_id, upstream, issuer, subject, session, data, created) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (sid) DO UPDATE SET user_id = excluded.user_id, upstream = excluded.upstream, issuer = excluded.issuer,
				subject = excluded.subject, session = excluded.session, data = excluded.data, created = excluded.created`,
			sid, x.ID, from.Upstream, c.Issuer, from.Session.NameID, from.Session.Index, string(data), u.o.Now().UnixMilli())
		return err
	})
}

// EndedTx forgets where a browser session came from, when it ends.
func (u *Upstreams) EndedTx(tx *store.Tx, sid string) error {
	_, err := tx.Exec(`DELETE FROM id_upstream_sessions WHERE sid = $1`, sid)
	return err
}

// Leaving is the sign-out at the provider that a browser session came from.
type Leaving struct {
	Upstream, Request string
	To                saml.Going
}

// Leave makes the sign-out at the provider that a browser session came from; origin is
// where the browser comes back to from one of OpenID Connect. ok is false where the session
// came from none, or from one that is not told. No ID token is kept for it, so that a
// provider of OpenID Connect may ask the person first.
// Spec: OpenID Connect RP-Initiated Logout 1.0 section 2
func (u *Upstreams) Leave(ctx context.Context, sid, origin string) (l Leaving, ok bool, err error) {
	id, o, s, err := u.cameFrom(ctx, sid)
	at := endOf(o)
	if err != nil || at == "" {
		return l, false, err
	}
	l.Upstream = id
	if o.saml != nil {
		l.To, l.Request, err = o.saml.Leave(s)
		return l, err == nil, err
	}
	to, err := url.Parse(at)
	if err != nil {
		return l, false, err
	}
	l.Request = account.Secret()
	q := to.Query()
	for k, v := range map[string]string{"client_id": o.c.ClientID, "logout_hint": s.NameID, "state": l.Request,
		"post_logout_redirect_uri": origin + "/upstream/" + id + "/signed-out"} {
		q.Set(k, v)
	}
	to.RawQuery = q.Encode()
	l.To.URL = to.String()
	return l, true, nil
}

// Leads is the address of a provider to which the end of a browser session leads, or "".
func (u *Upstreams) Leads(ctx context.Context, sid string) string {
	_, o, _, err := u.cameFrom(ctx, sid)
	if err != nil {
		return ""
	}
	return endOf(o)
}

// cameFrom is the provider that a browser session came from, and its session there; nil:
// none that is set still.
func (u *Upstreams) cameFrom(ctx context.Context, sid string) (id string, o *opened, s saml.Session, err error) {
	var issuer, data string
	err = u.o.DB.Read(ctx, func(q store.Querier) error {
		return q.QueryRow(`SELECT upstream, issuer, data FROM id_upstream_sessions WHERE sid = $1`, sid).Scan(&id, &issuer, &data)
	})
	if errors.Is(err, store.ErrNotFound) {
		return "", nil, s, nil
	}
	if err != nil {
		return "", nil, s, err
	}
	u.mu.Lock()
	if o = u.open[id]; o != nil {
		it := *o // what it said last may change
		o = &it
	}
	u.mu.Unlock()
	if o == nil || o.c.Issuer != issuer {
		return "", nil, s, nil
	}
	return id, o, s, json.Unmarshal([]byte(data), &s)
}

// endOf is where a provider is told that somebody signs out; "": nowhere. One of OpenID
// Connect has said so, if it was heard of since the start.
func endOf(o *opened) string {
	switch {
	case o == nil:
		return ""
	case o.saml != nil:
		return o.saml.LogoutURL()
	case !o.c.SignOut || o.p == nil:
		return ""
	}
	var said struct {
		At string `json:"end_session_endpoint"`
	}
	if o.p.Claims(&said) != nil || len(said.At) > maxURL {
		return ""
	}
	if at, err := url.Parse(said.At); err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Host == "" {
		return ""
	}
	return said.At
}

// LeftOpenID ends the browser sessions that a provider's logout token names: those of a
// person, or of one session there. Each token is taken once. Errors: ErrNone, ErrDown,
// ErrRefused. Spec: OpenID Connect Back-Channel Logout 1.0 sections 2.5 to 2.7
func (u *Upstreams) LeftOpenID(ctx context.Context, id, raw string) error {
	if raw == "" || len(raw) > maxIDToken {
		return fmt.Errorf("%w: there is no logout token", ErrRefused)
	}
	k, o, err := u.keysOf(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	t, err := oidc.NewVerifier(o.c.Issuer, k, &oidc.Config{ClientID: o.c.ClientID, SupportedSigningAlgs: algs, Now: u.o.Now}).VerifyLogout(ctx, raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	now := u.o.Now()
	if t.IssuedAt.Before(now.Add(-logoutOld)) || t.IssuedAt.After(now.Add(logoutAhead)) {
		return fmt.Errorf("%w: the logout token was not made just now", ErrRefused)
	}
	// One write: what could not be followed is good once more, for providers try again.
	err = u.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := u.onceTx(tx, o.c.Issuer, "logout "+t.TokenID, now.Add(logoutOld+logoutAhead)); err != nil {
			return err
		}
		return u.endTx(tx, id, o.c.Issuer, t.Subject, func(session string) bool { return t.SessionID == "" || t.SessionID == session })
	})
	if errors.Is(err, saml.ErrUsed) {
		return fmt.Errorf("%w: the logout token was used before", ErrRefused)
	}
	return err
}

// endTx ends the browser sessions that came from a person's sessions at a provider, or,
// with no subject, from anybody's, where named agrees.
func (u *Upstreams) endTx(tx *store.Tx, id, issuer, subject string, named func(session string) bool) error {
	type session struct{ user, sid string }
	var all []session
	rows, err := tx.Query(`SELECT user_id, sid, session FROM id_upstream_sessions WHERE issuer = $1 AND ($2 = '' OR subject = $2)`, issuer, subject)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s session
		var there string
		if err := rows.Scan(&s.user, &s.sid, &there); err != nil {
			return err
		}
		if named(there) {
			all = append(all, s)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	for _, s := range all {
		x, err := u.o.Accounts.LoadByID(tx, s.user)
		if err != nil {
			return err
		}
		if err := u.o.Accounts.EndBrowserTx(tx, s.user, s.sid); err != nil {
			return err
		}
		if err := u.note(tx, audit.Event{Name: "upstream.signout", Actor: x.UserID, Target: x.UserID, Data: audit.Data{"upstream": id}}); err != nil {
			return err
		}
	}
	return nil
}
