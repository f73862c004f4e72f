package account

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// NewInvite describes an invite link.
type NewInvite struct {
	Uses      int           // 0: one
	ExpiresIn time.Duration // 0: seven days
	Localpart string        // fixed user name; "": the person chooses
	Roles     Roles         // that the account gets
	Groups    []string      // names of local groups that it is put into
}

// Invite is a link that makes accounts.
type Invite struct {
	ID        string
	Token     string // only from CreateInvite: the database has its hash
	URL       string // only from identity.CreateInvite, on the canonical origin
	Localpart string
	Roles     Roles    // that the account gets
	Groups    []string // that it is put into: names; only from CreateInvite and Invites
	groupIDs  []string
	Uses      int
	UsesLeft  int
	Created   time.Time
	Expires   time.Time
	CreatedBy string // user ID; "": the command line
	PIN       bool   // it is a card with one; only from InviteByToken
	Revoked   bool
}

// ErrMayNotInvite: only who administers the appliance invites people.
var ErrMayNotInvite = errors.New("identity: only an administrator may invite people")

// mayInvite refuses an invite by somebody who could not give its roles themselves. The
// appliance, and who commands it at the machine, may give all. Errors: ErrMayNotInvite,
// ErrOwner.
func (a *Accounts) mayInvite(ctx context.Context, q store.Querier, roles Roles) error {
	who := ActorOf(ctx).UserID
	if who == "" {
		return nil
	}
	l, own := a.Localpart(who)
	u, err := a.LoadByLocalpart(q, l)
	switch {
	case errors.Is(err, ErrNoUser):
		return ErrMayNotInvite
	case err != nil:
		return err
	case !own || u.Err() != nil || !u.Roles.Administers():
		return ErrMayNotInvite
	case roles&Owner != 0 && u.Roles&Owner == 0:
		return ErrOwner
	}
	return nil
}

// still refuses an invite that gives more than a plain account, where who made it could
// not make it any more. Errors: ErrInvite.
func (a *Accounts) still(q store.Querier, inv Invite) error {
	if inv.Roles == 0 && len(inv.groupIDs) == 0 {
		return nil
	}
	err := a.mayInvite(WithActor(context.Background(), Actor{UserID: inv.CreatedBy}), q, inv.Roles)
	if errors.Is(err, ErrMayNotInvite) || errors.Is(err, ErrOwner) {
		err = ErrInvite
	}
	return err
}

// Bounds of an invite.
const (
	maxInviteUses   = 10000
	defaultInvite   = 7 * 24 * time.Hour
	maxInviteExpiry = 366 * 24 * time.Hour
)

// CreateInvite makes an invite. Who asks is in the context. Errors: ErrBadName,
// ErrUserExists for a fixed name; ErrMayNotInvite, ErrOwner, ErrNoGroup, ErrGroupSource.
func (a *Accounts) CreateInvite(ctx context.Context, n NewInvite) (inv Invite, err error) {
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
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		inv, err = a.createInviteTx(ctx, tx, n, Secret())
		if err != nil {
			return err
		}
		return a.Audit.Tx(ctx, tx, audit.Event{Name: "invite.create", Target: inv.ID, Data: audit.Data{
			"name": inv.Localpart, "roles": inv.Roles.Names(), "groups": inv.Groups, "uses": inv.Uses, "expires": inv.Expires.UTC().Format(time.RFC3339)}})
	})
	if err != nil {
		return Invite{}, err
	}
	return inv, nil
}

func (a *Accounts) createInviteTx(ctx context.Context, tx *store.Tx, n NewInvite, token string) (Invite, error) {
	if err := a.mayInvite(ctx, tx, n.Roles); err != nil {
		return Invite{}, err
	}
	now := a.Now()
	inv := Invite{
		ID: NewULID(now), Token: token, Localpart: n.Localpart, Roles: n.Roles, Groups: []string{},
		Uses: min(max(n.Uses, 1), maxInviteUses), Created: now, Expires: now.Add(min(n.ExpiresIn, maxInviteExpiry)), CreatedBy: ActorOf(ctx).UserID,
	}
	inv.UsesLeft = inv.Uses
	for _, name := range n.Groups {
		g, err := a.LoadGroup(tx, name)
		if err == nil && g.Source != LocalGroup {
			err = ErrGroupSource
		}
		if err != nil {
			return Invite{}, err
		}
		if !slices.Contains(inv.groupIDs, g.ID) {
			inv.Groups, inv.groupIDs = append(inv.Groups, g.Name), append(inv.groupIDs, g.ID)
		}
	}
	_, err := tx.Exec(insertInvite, inv.ID, Hash(inv.Token), inv.Localpart, strings.Join(inv.Roles.Names(), " "), strings.Join(inv.groupIDs, " "), inv.Uses,
		inv.Created.UnixMilli(), inv.Expires.UnixMilli(), inv.CreatedBy)
	return inv, err
}

const insertInvite = `INSERT INTO id_invites (id, hash, localpart, roles, group_ids, uses, uses_left, created, expires, created_by, revoked)
VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8, $9, 0)`

const inviteColumns = `SELECT id, localpart, roles, group_ids, uses, uses_left, created, expires, created_by, revoked FROM id_invites `

func scanInvite(scan func(...any) error) (inv Invite, err error) {
	var (
		created, expires int64
		roles, groups    string
	)
	if err := scan(&inv.ID, &inv.Localpart, &roles, &groups, &inv.Uses, &inv.UsesLeft, &created, &expires, &inv.CreatedBy, &inv.Revoked); err != nil {
		return Invite{}, err
	}
	inv.Roles = readRoles(roles)
	inv.groupIDs = strings.Fields(groups)
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
		inv, err = scanInvite(q.QueryRow(selectOpenInvite, Hash(token), a.Now().UnixMilli()).Scan)
		if err == nil {
			if err = a.still(q, inv); err == nil {
				inv.PIN, err = needsPIN(q, inv.ID)
			}
			return err
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		t, err := a.scanToken(q.QueryRow(tokenColumns+`WHERE token = $1`, a.sealedToken(token)).Scan)
		if errors.Is(err, ErrNoToken) || err == nil && !t.Valid(a.Now()) {
			return ErrInvite
		}
		inv = Invite{Token: token}
		return err
	})
	return inv, err
}

const (
	selectOpenInvite = inviteColumns + `WHERE hash = $1 AND revoked = 0 AND uses_left > 0 AND expires > $2`
	countUse         = `UPDATE id_invites SET uses_left = uses_left - 1 WHERE id = $1`
)

// useInviteTx counts a use of an invite, or of a registration token, which gives an
// invite of nothing. Of parallel uses of the last one succeeds. Errors: ErrInvite.
func (a *Accounts) useInviteTx(tx *store.Tx, token string) (Invite, error) {
	inv, err := scanInvite(tx.QueryRow(selectOpenInvite, Hash(token), a.Now().UnixMilli()).Scan)
	if errors.Is(err, store.ErrNotFound) {
		return Invite{}, a.useRegistrationToken(tx, token, a.Now())
	}
	if err == nil {
		err = a.still(tx, inv)
	}
	if err != nil {
		return Invite{}, err
	}
	_, err = tx.Exec(countUse, inv.ID)
	return inv, err
}

// joinInvitedTx puts a new account into the groups of its invite, except those that there
// are no more.
func (a *Accounts) joinInvitedTx(tx *store.Tx, inv Invite, u User) error {
	for _, id := range inv.groupIDs {
		g, err := a.loadGroupByID(tx, id)
		if errors.Is(err, ErrNoGroup) || err == nil && g.Source != LocalGroup {
			continue
		}
		if err == nil {
			err = a.joinTx(tx, g, u)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readRoles reads roles as they are kept.
func readRoles(names string) (all Roles) {
	for name := range strings.FieldsSeq(names) {
		if r, err := ParseRole(name); err == nil { // else of a later release
			all |= r
		}
	}
	return all
}

// namesOf are the names of those groups that have one of the IDs.
func namesOf(groups []Group, ids []string) []string {
	out := []string{}
	for _, g := range groups {
		if slices.Contains(ids, g.ID) {
			out = append(out, g.Name)
		}
	}
	return out
}

// Invites lists the invites that are no cards, newest first.
func (a *Accounts) Invites(ctx context.Context) (out []Invite, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(inviteColumns + `WHERE id NOT IN (SELECT id FROM id_cards) ORDER BY id DESC LIMIT 1000`)
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
		if err := rows.Err(); err != nil {
			return err
		}
		groups, err := scanGroups(q, groupColumns)
		for i := range out {
			out[i].Groups = namesOf(groups, out[i].groupIDs)
		}
		return err
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
