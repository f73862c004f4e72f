package opstore

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"holdfast/identity/account"
	"holdfast/identity/register"
	"holdfast/store"
)

// This file has the device grant: a device asks for a sign-in, shows a short code,
// and waits until its person has confirmed it on a page. Spec: RFC 8628

// Errors of a device that asks again, besides ErrNoRequest.
var (
	ErrPending      = errors.New("identity: nobody has confirmed the sign-in yet")
	ErrSlowDown     = errors.New("identity: the device asks too often")
	ErrGrantExpired = errors.New("identity: the sign-in took too long")
	ErrDenied       = errors.New("identity: the sign-in was declined")
	ErrManyGrants   = errors.New("identity: too many devices wait to be signed in")
)

// Bounds of device grants.
const (
	GrantFor     = 15 * time.Minute
	PollInterval = 5 * time.Second // between two questions of a device
	slowedBy     = 5 * time.Second // for each question that came too early
	pollLeeway   = time.Second     // what a network may take of the interval
	collectFor   = time.Minute     // a device that was confirmed at the last moment still gets its tokens
	maxGrants    = 1000            // that wait at a time
	maxAgent     = 256             // bytes that are kept
)

const (
	devicePrefix = "hdc_"
	stateAgreed  = "agreed"
	stateDenied  = "denied"
)

// userCodeLetters are hard to confuse and make no words. Spec: RFC 8628 section 6.1
const (
	userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userCodeLength  = 8 // 34 bits
)

// Grant is a device's sign-in that is confirmed elsewhere.
type Grant struct {
	ClientID string
	Scopes   []string
	DeviceID string // "": not for the Matrix API
	Address  string // that the device asked from
	Agent    string // what it said to be
	Created  time.Time
	Expires  time.Time

	hash     []byte
	state    string
	userID   string
	authTime time.Time
	session  string
	signed   string
}

// newUserCode makes a code that people type.
func newUserCode() string {
	code := make([]byte, 0, userCodeLength)
	for b := []byte{0}; len(code) < userCodeLength; {
		rand.Read(b)
		if n := int(b[0]); n < 256/len(userCodeLetters)*len(userCodeLetters) { // each as likely as any other
			code = append(code, userCodeLetters[n%len(userCodeLetters)])
		}
	}
	return string(code)
}

// ShowUserCode is a user code as it is shown.
func ShowUserCode(code string) string {
	return code[:userCodeLength/2] + "-" + code[userCodeLength/2:]
}

// ParseUserCode reads a user code as somebody typed it. It reports whether it could
// be one.
func ParseUserCode(typed string) (string, bool) {
	if len(typed) > 64 {
		return "", false
	}
	var code []byte
	for _, c := range []byte(strings.ToUpper(typed)) {
		switch {
		case c == ' ' || c == '-' || c == '.' || c == '_':
		case strings.IndexByte(userCodeLetters, c) >= 0:
			code = append(code, c)
		default:
			return "", false
		}
	}
	return string(code), len(code) == userCodeLength
}

const (
	countGrants = `SELECT count(*) FROM id_device_grants WHERE expires > $1 AND state = 'open'`
	insertGrant = `INSERT INTO id_device_grants (device_hash, user_hash, client_id, scopes, device_id, address, agent, state, user_id, auth_time, session_id, created, expires, signed)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', '', 0, '', $8, $9, '') ON CONFLICT (user_hash) DO NOTHING`
	grantColumns = `SELECT device_hash, client_id, scopes, device_id, address, agent, state, user_id, auth_time, session_id, created, expires, signed FROM id_device_grants `
	decideGrant  = `UPDATE id_device_grants SET state = $2, user_id = $3, auth_time = $4, expires = max(expires, $5), signed = $6 WHERE device_hash = $1 AND state = 'open'`
	useGrant     = `UPDATE id_device_grants SET state = 'used', session_id = $2 WHERE device_hash = $1 AND state = 'agreed'`
	sweepGrants  = `DELETE FROM id_device_grants WHERE expires < $1`
	// What somebody agreed to before their sessions ended makes no session after it.
	dropRequests = `DELETE FROM id_auth_requests WHERE user_id = $1 AND state IN ('done', 'code')`
	dropGrants   = `DELETE FROM id_device_grants WHERE user_id = $1 AND state = 'agreed'`
)

// BeginGrant stores a device's wish to be signed in. Errors: ErrManyGrants.
func (s *Store) BeginGrant(ctx context.Context, c *register.Client, scopes []string, deviceID, address, agent string) (deviceCode, userCode string, err error) {
	if len(agent) > maxAgent {
		agent = strings.ToValidUTF8(agent[:maxAgent], "")
	}
	deviceCode = random(devicePrefix)
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		now := s.Now()
		var n int
		if err := tx.QueryRow(countGrants, now.UnixMilli()).Scan(&n); err != nil {
			return err
		}
		if n >= maxGrants {
			return ErrManyGrants
		}
		if err := s.Clients.UsedTx(tx, c); err != nil {
			return err
		}
		for range 5 { // another of the same letters may wait
			userCode = newUserCode()
			n, err := tx.Exec(insertGrant, account.Hash(deviceCode), account.Hash(userCode), c.ID, strings.Join(scopes, " "), deviceID,
				address, agent, now.UnixMilli(), now.Add(GrantFor).UnixMilli())
			if err != nil || n == 1 {
				return err
			}
		}
		return ErrManyGrants
	})
	return deviceCode, userCode, err
}

func scanGrant(row *store.Row) (*Grant, error) {
	g := &Grant{}
	var scopes string
	var auth, created, expires int64
	err := row.Scan(&g.hash, &g.ClientID, &scopes, &g.DeviceID, &g.Address, &g.Agent, &g.state, &g.userID, &auth, &g.session, &created, &expires, &g.signed)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoRequest
	}
	g.Scopes = strings.Fields(scopes)
	g.authTime, g.Created, g.Expires = time.UnixMilli(auth), time.UnixMilli(created), time.UnixMilli(expires)
	return g, err
}

// Grant finds the sign-in that waits under a user code. Errors: ErrNoRequest.
func (s *Store) Grant(ctx context.Context, userCode string) (g *Grant, err error) {
	err = s.DB.Read(ctx, func(q store.Querier) error {
		g, err = s.grant(q, userCode)
		return err
	})
	return g, err
}

func (s *Store) grant(q store.Querier, userCode string) (*Grant, error) {
	g, err := scanGrant(q.QueryRow(grantColumns+`WHERE user_hash = $1`, account.Hash(userCode)))
	if err == nil && (g.state != stateOpen || !s.Now().Before(g.Expires)) {
		err = ErrNoRequest
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

// Decide notes who agreed to a device's sign-in, or that it was declined. It happens
// once. Errors: ErrNoRequest.
func (s *Store) Decide(ctx context.Context, userCode string, b account.Browser, agreed bool) error {
	state := stateDenied
	if agreed {
		state = stateAgreed
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		g, err := s.grant(tx, userCode)
		if err != nil {
			return err
		}
		n, err := tx.Exec(decideGrant, g.hash, state, b.User.ID, b.AuthTime.UnixMilli(), s.Now().Add(collectFor).UnixMilli(), Signed{AMR: Methods(b)}.text())
		if err == nil && n == 0 {
			err = ErrNoRequest
		}
		return err
	})
}

// pace is how often a device asked. It is kept in memory: a question writes nothing.
type pace struct {
	last     time.Time
	interval time.Duration
}

// paces are those of devices that wait, of which there are at most maxGrants at a
// time; those of devices that went away are dropped when there are more.
type paces struct {
	mu sync.Mutex
	m  map[tokenHash]pace
}

// asks notes a question, and reports whether it came too early.
func (p *paces) asks(h tokenHash, now time.Time) (early bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = map[tokenHash]pace{}
	}
	x, known := p.m[h]
	if !known {
		x.interval = PollInterval
		if len(p.m) >= 2*maxGrants {
			for k, other := range p.m {
				if now.Sub(other.last) > GrantFor {
					delete(p.m, k)
				}
			}
		}
	}
	if early = known && now.Sub(x.last) < x.interval-pollLeeway; early {
		x.interval += slowedBy
	}
	x.last = now
	p.m[h] = x
	return early
}

func (p *paces) forget(h tokenHash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, h)
}

// Collect answers a device that asks whether it is signed in: with the tokens of its
// session, once. A code that comes again afterwards ends that session: somebody else
// has it, or the device never saw the answer.
// Errors: ErrNoRequest, ErrPending, ErrSlowDown, ErrGrantExpired, ErrDenied.
func (s *Store) Collect(ctx context.Context, deviceCode, clientID string) (t Tokens, sess *Session, err error) {
	if len(deviceCode) > maxToken {
		return t, nil, ErrNoRequest
	}
	h := tokenHash(account.Hash(deviceCode))
	var g *Grant
	load := func(q store.Querier) error {
		g, err = scanGrant(q.QueryRow(grantColumns+`WHERE device_hash = $1`, h[:]))
		if err == nil && g.ClientID != clientID {
			err = ErrNoRequest
		}
		if err != nil {
			return err
		}
		switch {
		case g.state == stateDenied:
			return ErrDenied
		case g.state == stateUsed:
			return nil
		case !s.Now().Before(g.Expires):
			return ErrGrantExpired
		case g.state == stateOpen:
			return ErrPending
		}
		return nil
	}
	if err := s.DB.Read(ctx, load); err != nil {
		if !errors.Is(err, ErrPending) {
			s.paces.forget(h)
		} else if s.paces.asks(h, s.Now()) {
			err = ErrSlowDown
		}
		return t, nil, err
	}
	s.paces.forget(h)
	var again string
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := load(tx); err != nil {
			return err
		}
		if g.state == stateUsed {
			again = g.session
			return s.EndTx(tx, g.session, "device code used twice", true)
		}
		u, err := s.Accounts.LoadByID(tx, g.userID)
		if errors.Is(err, account.ErrNoUser) || err == nil && u.Err() != nil {
			return ErrDenied
		}
		if err != nil {
			return err
		}
		c, err := s.Clients.Load(tx, g.ClientID)
		if err == nil {
			err = s.mayUse(tx, c, u.ID)
		}
		if errors.Is(err, ErrNotAllowed) || errors.Is(err, register.ErrNoClient) {
			err = ErrDenied
		}
		if err != nil {
			return err
		}
		sess = &Session{ClientID: g.ClientID, Scopes: g.Scopes, DeviceID: g.DeviceID, AuthTime: g.authTime}
		if sess.Signed, err = parseSigned(g.signed); err != nil {
			return err
		}
		if slices.Contains(g.Scopes, oidc.ScopeOpenID) {
			if err := s.loginTx(tx, c, u.ID, "", op.IssuerFromContext(ctx)); err != nil {
				return err
			}
		}
		refresh := slices.Contains(withOffline(g.Scopes, g.DeviceID), oidc.ScopeOfflineAccess)
		if t, err = s.StartTx(tx, u, sess, c.Name(), refresh, false); err != nil {
			return err
		}
		n, err := tx.Exec(useGrant, h[:], sess.ID)
		if err == nil && n == 0 {
			err = ErrNoRequest
		}
		return err
	})
	if err == nil && again != "" {
		s.Log.Warn("a device code was used twice; the session it made was ended")
		err = ErrDenied
	}
	if err != nil {
		return Tokens{}, nil, err
	}
	return t, sess, nil
}

// IDToken is the ID token of a session that began without op.
func (st Storage) IDToken(ctx context.Context, issuer string, sess *Session, accessToken string, c *register.Client) (string, error) {
	client := c.OP()
	return op.CreateIDToken(ctx, issuer, &refreshRequest{sess: *sess, scopes: sess.Scopes, client: c, subject: st.S.Subject(c, sess.UserID)}, client.IDTokenLifetime(), accessToken, "", st, client)
}
