package account

import (
	"context"
	"errors"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// NewInvite describes an invite link.
type NewInvite struct {
	Uses      int           // 0: one
	ExpiresIn time.Duration // 0: seven days
	Localpart string        // fixed user name; "": the person chooses
	Admin     bool
	CreatedBy string // user ID
}

// Invite is a link that makes accounts.
type Invite struct {
	ID        string
	Token     string // only from CreateInvite: the database has its hash
	URL       string // only from identity.CreateInvite, on the canonical origin
	Localpart string
	Admin     bool
	Uses      int
	UsesLeft  int
	Created   time.Time
	Expires   time.Time
	CreatedBy string
	Revoked   bool
}

// Bounds of an invite.
const (
	maxInviteUses   = 10000
	defaultInvite   = 7 * 24 * time.Hour
	maxInviteExpiry = 366 * 24 * time.Hour
)

// CreateInvite makes an invite. Errors: ErrBadName, ErrUserExists for a fixed name.
func (a *Accounts) CreateInvite(ctx context.Context, n NewInvite) (Invite, error) {
	if n.Localpart != "" {
		n.Uses = 1
		if err := a.CheckName(n.Localpart, "invite"); err != nil {
			return Invite{}, err
		}
		if err := a.Available(ctx, n.Localpart); err != nil {
			return Invite{}, err
		}
	}
	if n.ExpiresIn <= 0 {
		n.ExpiresIn = defaultInvite
	}
	now := a.Now()
	inv := Invite{
		ID: NewULID(now), Token: Secret(), Localpart: n.Localpart, Admin: n.Admin,
		Uses: min(max(n.Uses, 1), maxInviteUses), Created: now, Expires: now.Add(min(n.ExpiresIn, maxInviteExpiry)), CreatedBy: n.CreatedBy,
	}
	inv.UsesLeft = inv.Uses
	return inv, a.DB.Write(ctx, func(tx *store.Tx) error {
		if err := a.Audit.Tx(ctx, tx, audit.Event{Name: "invite.create", Target: inv.ID, Data: audit.Data{
			"name": inv.Localpart, "admin": inv.Admin, "uses": inv.Uses, "expires": inv.Expires.UTC().Format(time.RFC3339)}}); err != nil {
			return err
		}
		_, err := tx.Exec(insertInvite, inv.ID, Hash(inv.Token), inv.Localpart, inv.Admin, inv.Uses,
			inv.Created.UnixMilli(), inv.Expires.UnixMilli(), inv.CreatedBy)
		return err
	})
}

const insertInvite = `INSERT INTO id_invites (id, hash, localpart, admin, uses, uses_left, created, expires, created_by, revoked)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, 0)`

const inviteColumns = `SELECT id, localpart, admin, uses, uses_left, created, expires, created_by, revoked FROM id_invites `

func scanInvite(scan func(...any) error) (inv Invite, err error) {
	var created, expires int64
	if err := scan(&inv.ID, &inv.Localpart, &inv.Admin, &inv.Uses, &inv.UsesLeft, &created, &expires, &inv.CreatedBy, &inv.Revoked); err != nil {
		return Invite{}, err
	}
	inv.Created, inv.Expires = time.UnixMilli(created), time.UnixMilli(expires)
	return inv, nil
}

// InviteByToken finds an invite that can be used now, or a registration token, which
// is an invite without a name. Errors: ErrInvite.
func (a *Accounts) InviteByToken(ctx context.Context, token string) (inv Invite, err error) {
	if len(token) > 256 {
		return Invite{}, ErrInvite
	}
	err = a.DB.Read(ctx, func(q store.Querier) error {
		inv, err = scanInvite(q.QueryRow(inviteColumns+`WHERE hash = $1 AND revoked = 0 AND uses_left > 0 AND expires > $2`, Hash(token), a.Now().UnixMilli()).Scan)
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		t, err := scanToken(q.QueryRow(tokenColumns+`WHERE token = $1`, token).Scan)
		if errors.Is(err, ErrNoToken) || err == nil && !t.Valid(a.Now()) {
			return ErrInvite
		}
		inv = Invite{Token: token}
		return err
	})
	return inv, err
}

const useInviteSQL = `UPDATE id_invites SET uses_left = uses_left - 1 WHERE hash = $1 AND revoked = 0 AND uses_left > 0 AND expires > $2`

func useInvite(tx *store.Tx, hash []byte, now time.Time) error {
	n, err := tx.Exec(useInviteSQL, hash, now.UnixMilli())
	if err == nil && n == 0 {
		err = ErrInvite
	}
	return err
}

// Invites lists the invites, newest first.
func (a *Accounts) Invites(ctx context.Context) (out []Invite, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(inviteColumns + `ORDER BY id DESC LIMIT 1000`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			inv, err := scanInvite(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, inv)
		}
		return rows.Err()
	})
	return out, err
}

// RevokeInvite makes an invite useless. Errors: ErrInvite when there is none.
func (a *Accounts) RevokeInvite(ctx context.Context, id string) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`UPDATE id_invites SET revoked = 1 WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = ErrInvite
		}
		if err != nil {
			return err
		}
		return a.Audit.Tx(ctx, tx, audit.Event{Name: "invite.revoke", Target: id})
	})
}
