package account

import (
	"context"
	"errors"
	"strings"

	"holdfast/store"
	"holdfast/store/audit"
)

// Roles are what somebody may do beyond using the server. None: a member.
type Roles uint8

// The roles. A person can have several, by themselves or through groups.
const (
	// Owner may do everything, and alone decides who else owns the appliance.
	Owner Roles = 1 << iota
	// Admin decides about accounts and settings.
	Admin
	// Moderator handles reports, rooms and media, not accounts.
	Moderator
	// Auditor reads what administrators see, and changes nothing.
	Auditor
)

var roleNames = []struct {
	role Roles
	name string
}{{Owner, "owner"}, {Admin, "admin"}, {Moderator, "moderator"}, {Auditor, "auditor"}}

// Errors about roles.
var (
	ErrRole      = errors.New("identity: there is no such role")
	ErrOwner     = errors.New("identity: only an owner may do this to an owner, or make one")
	ErrLastOwner = errors.New("identity: the appliance would have no owner whose account is open")
	ErrGroupRole = errors.New("identity: a group cannot own the appliance")
)

// ParseRole reads the name of a role. Errors: ErrRole.
func ParseRole(name string) (Roles, error) {
	for _, x := range roleNames {
		if x.name == name {
			return x.role, nil
		}
	}
	return 0, ErrRole
}

// Names lists the roles, the mightiest first.
func (r Roles) Names() []string {
	out := []string{}
	for _, x := range roleNames {
		if r&x.role != 0 {
			out = append(out, x.name)
		}
	}
	return out
}

func (r Roles) String() string { return strings.Join(r.Names(), ", ") }

// Administers reports whether accounts and settings are theirs to decide.
func (r Roles) Administers() bool { return r&(Owner|Admin) != 0 }

// Actor is who asks for a change: it says what may be done to owners.
type Actor struct {
	UserID string // "": the appliance itself, or whoever commands it at the machine
}

type actorKey struct{}

// WithActor says who asks for what is done with the context.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf is who asks for what is done with the context.
func ActorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}

// ownsTx reports whether the actor may do what only owners do.
func (a *Accounts) ownsTx(ctx context.Context, q store.Querier) (bool, error) {
	who := ActorOf(ctx)
	if who.UserID == "" {
		return true, nil
	}
	l, own := a.Localpart(who.UserID)
	if !own {
		return false, nil
	}
	u, err := a.LoadByLocalpart(q, l)
	if errors.Is(err, ErrNoUser) {
		return false, nil
	}
	return err == nil && u.Err() == nil && u.Roles&Owner != 0, err
}

// MayChangeTx refuses that somebody who is no owner changes an owner's account, unless
// it is their own. Errors: ErrOwner.
func (a *Accounts) MayChangeTx(ctx context.Context, q store.Querier, u User) error {
	if u.Roles&Owner == 0 || ActorOf(ctx).UserID == u.UserID {
		return nil
	}
	return a.needOwner(ctx, q)
}

// needOwner refuses an actor who may not do what only owners do. Errors: ErrOwner.
func (a *Accounts) needOwner(ctx context.Context, q store.Querier) error {
	ok, err := a.ownsTx(ctx, q)
	if err == nil && !ok {
		err = ErrOwner
	}
	return err
}

const countOtherOwners = `SELECT count(*) FROM id_role_grants g JOIN id_users u ON u.id = g.subject
WHERE g.role = 'owner' AND u.state = 'active' AND u.id <> $1`

// keepOwner refuses to lose the last owner whose account is open. Errors: ErrLastOwner.
func keepOwner(q store.Querier, u User) error {
	if u.Roles&Owner == 0 || u.State != Active {
		return nil
	}
	var n int
	err := q.QueryRow(countOtherOwners, u.ID).Scan(&n)
	if err == nil && n == 0 {
		err = ErrLastOwner
	}
	return err
}

const (
	insertGrant = `INSERT INTO id_role_grants (subject, role, since) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	deleteGrant = `DELETE FROM id_role_grants WHERE subject = $1 AND role = $2`
	dropGrants  = `DELETE FROM id_role_grants WHERE subject = $1`
	ownGrants   = `SELECT role FROM id_role_grants WHERE subject = $1`
)

func (a *Accounts) grant(tx *store.Tx, subject string, role Roles) error {
	for _, name := range role.Names() {
		if _, err := tx.Exec(insertGrant, subject, name, a.Now().UnixMilli()); err != nil {
			return err
		}
	}
	return nil
}

func revoke(tx *store.Tx, subject string, role Roles) error {
	for _, name := range role.Names() {
		if _, err := tx.Exec(deleteGrant, subject, name); err != nil {
			return err
		}
	}
	return nil
}

// GrantTx gives somebody a role. Errors: ErrOwner, ErrDeactivated.
func (a *Accounts) GrantTx(ctx context.Context, tx *store.Tx, u User, role Roles) error {
	if u.State == Deactivated {
		return ErrDeactivated
	}
	if role&Owner != 0 {
		if err := a.needOwner(ctx, tx); err != nil {
			return err
		}
	}
	if err := a.grant(tx, u.ID, role); err != nil {
		return err
	}
	return a.Audit.Tx(ctx, tx, audit.Event{Name: "role.grant", Target: u.UserID, Data: audit.Data{"roles": role.Names()}})
}

// RevokeTx takes a role away that somebody was given themselves: one of their groups'
// stays. Errors: ErrOwner, ErrLastOwner.
func (a *Accounts) RevokeTx(ctx context.Context, tx *store.Tx, u User, role Roles) error {
	if role&Owner != 0 && u.Roles&Owner != 0 {
		if err := a.needOwner(ctx, tx); err != nil {
			return err
		}
		if err := keepOwner(tx, u); err != nil {
			return err
		}
	}
	if err := revoke(tx, u.ID, role); err != nil {
		return err
	}
	return a.Audit.Tx(ctx, tx, audit.Event{Name: "role.revoke", Target: u.UserID, Data: audit.Data{"roles": role.Names()}})
}

// OwnRoles are the roles that somebody, or a group, was given: those through groups
// are not among them. id is the ULID.
func (a *Accounts) OwnRoles(q store.Querier, id string) (Roles, error) {
	return scanRoles(q, ownGrants, id)
}

const allGrants = `SELECT role FROM id_role_grants WHERE subject = $1
UNION SELECT g.role FROM id_group_members m JOIN id_role_grants g ON g.subject = m.group_id WHERE m.user_id = $1`

func scanRoles(q store.Querier, query, id string) (r Roles, err error) {
	rows, err := q.Query(query, id)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return 0, err
		}
		x, err := ParseRole(name)
		if err != nil {
			continue // of a later release
		}
		r |= x
	}
	return r, rows.Err()
}

const everyGrant = `SELECT subject, role FROM id_role_grants
UNION SELECT m.user_id, g.role FROM id_group_members m JOIN id_role_grants g ON g.subject = m.group_id`

// everybodysRoles are the roles of all who have one, and of groups, by ULID.
func everybodysRoles(q store.Querier) (map[string]Roles, error) {
	rows, err := q.Query(everyGrant)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]Roles{}
	for rows.Next() {
		var id, name string
		if err := rows.Scan(&id, &name); err != nil {
			return nil, err
		}
		if x, err := ParseRole(name); err == nil {
			out[id] |= x
		}
	}
	return out, rows.Err()
}
