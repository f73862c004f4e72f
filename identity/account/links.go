package account

import (
	"context"
	"errors"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// What a link to an account that exists is for.
const (
	LinkRecovery = "recovery" // who lost everything: a new password, and no second factor any more
	LinkEnrol    = "enrol"    // of an account without a password: its first
)

// Bounds of links.
const (
	maxLinkExpiry = 30 * 24 * time.Hour
	keepLinks     = 30 * 24 * time.Hour // after they expired, so that the page can say so
)

var (
	// ErrLink: the link was used, has expired or was withdrawn, or the account is closed.
	ErrLink = errors.New("identity: the link was used, has expired or was withdrawn")
	// ErrNoLink: there never was such a link, or long ago.
	ErrNoLink = errors.New("identity: no such link")
	// ErrHasPassword: only accounts without a password get a link for the first one.
	ErrHasPassword = errors.New("identity: the account has a password")
	// ErrLinkTime: links last for one second to 30 days.
	ErrLinkTime = errors.New("identity: a link lasts for at most 30 days")
)

// Link sets a new password once.
type Link struct {
	ID        string
	Token     string // only from CreateLinkTx: the database has its hash
	Kind      string
	User      User
	Expires   time.Time
	CreatedBy string // user ID; "": the command line
	PIN       bool   // it is a card with one; only from LinkByToken
}

// CreateLinkTx makes a link for an account, in place of those that it has. Who asks is
// in the context. Errors: ErrOwner, ErrLocked, ErrDeactivated, ErrElsewhere,
// ErrHasPassword, ErrLinkTime.
func (a *Accounts) CreateLinkTx(ctx context.Context, tx *store.Tx, u User, kind string, lasts time.Duration) (Link, error) {
	return a.createLinkTx(ctx, tx, u, kind, lasts, Secret())
}

func (a *Accounts) createLinkTx(ctx context.Context, tx *store.Tx, u User, kind string, lasts time.Duration, token string) (Link, error) {
	if lasts < time.Second || lasts > maxLinkExpiry {
		return Link{}, ErrLinkTime
	}
	if err := a.MayChangeTx(ctx, tx, u); err != nil {
		return Link{}, err
	}
	if err := u.Err(); err != nil {
		return Link{}, err
	}
	if err := a.LocalTx(tx, u.ID); err != nil {
		return Link{}, err
	}
	if kind == LinkEnrol && u.HasPassword {
		return Link{}, ErrHasPassword
	}
	if _, err := tx.Exec(revokeLinks, u.ID); err != nil {
		return Link{}, err
	}
	now := a.Now()
	l := Link{ID: NewULID(now), Token: token, Kind: kind, User: u, Expires: now.Add(lasts), CreatedBy: ActorOf(ctx).UserID}
	if _, err := tx.Exec(insertLink, l.ID, Hash(l.Token), u.ID, kind, now.UnixMilli(), l.Expires.UnixMilli(), l.CreatedBy); err != nil {
		return Link{}, err
	}
	return l, a.Audit.Tx(ctx, tx, audit.Event{Name: "link.create", Target: u.UserID, Data: audit.Data{
		"link": l.ID, "kind": kind, "expires": l.Expires.UTC().Format(time.RFC3339)}})
}

// LinkByToken finds a link that can be used now. Errors: ErrLink, ErrNoLink.
func (a *Accounts) LinkByToken(ctx context.Context, token string) (l Link, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		if l, err = a.loadLink(q, token); err == nil {
			l.PIN, err = needsPIN(q, l.ID)
		}
		return err
	})
	return l, err
}

// LinkWithPIN is LinkByToken for who wants to use it: they know its PIN, if it has one.
// Errors: ErrLink, ErrNoLink, ErrPIN, *SlowDown.
func (a *Accounts) LinkWithPIN(ctx context.Context, token, pin string) (Link, error) {
	l, err := a.LinkByToken(ctx, token)
	if err == nil && l.PIN {
		err = a.checkPIN(ctx, l.ID, token, pin)
	}
	return l, err
}

// UseLinkTx uses a link up. Of parallel uses one succeeds. Errors: ErrLink, ErrNoLink.
func (a *Accounts) UseLinkTx(tx *store.Tx, token string) (Link, error) {
	l, err := a.loadLink(tx, token)
	if err != nil {
		return l, err
	}
	_, err = tx.Exec(useLink, l.ID, a.Now().UnixMilli())
	return l, err
}

func (a *Accounts) loadLink(q store.Querier, token string) (l Link, err error) {
	if len(token) > 256 {
		return l, ErrNoLink
	}
	var (
		user          string
		expires, used int64
		revoked       bool
	)
	err = q.QueryRow(selectLink, Hash(token)).Scan(&l.ID, &user, &l.Kind, &expires, &used, &l.CreatedBy, &revoked)
	if errors.Is(err, store.ErrNotFound) {
		return l, ErrNoLink
	}
	if err != nil {
		return l, err
	}
	l.Expires = time.UnixMilli(expires)
	if l.User, err = a.LoadByID(q, user); err != nil {
		return l, err
	}
	if used != 0 || revoked || !a.Now().Before(l.Expires) || l.User.Err() != nil {
		return l, ErrLink
	}
	// Who made it may have no right to it any more, or the account more roles than then.
	err = a.MayChangeTx(WithActor(context.Background(), Actor{UserID: l.CreatedBy}), q, l.User)
	if errors.Is(err, ErrOwner) {
		err = ErrLink
	}
	return l, err
}

const (
	insertLink = `INSERT INTO id_links (id, hash, user_id, kind, created, expires, used, created_by, revoked)
VALUES ($1, $2, $3, $4, $5, $6, 0, $7, 0)`
	selectLink = `SELECT id, user_id, kind, expires, used, created_by, revoked FROM id_links WHERE hash = $1`
	useLink    = `UPDATE id_links SET used = $2 WHERE id = $1`
	// revokeLinks withdraws what an account has, as a new link or password takes its place.
	revokeLinks = `UPDATE id_links SET revoked = 1 WHERE user_id = $1 AND used = 0`
	// Those on cards stay as long as their batch is listed.
	sweepLinks = `DELETE FROM id_links WHERE expires < $1 AND id NOT IN (SELECT id FROM id_cards)`
)
