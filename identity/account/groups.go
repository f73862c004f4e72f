package account

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"holdfast/store"
	"holdfast/store/audit"
)

// LocalGroup is the Source of groups that were made here.
const LocalGroup = "local"

// Group is a group of people.
type Group struct {
	ID      string // ULID
	Name    string // as applications are told
	Source  string // LocalGroup, or the directory that says who is in it
	There   string // what that directory calls it for good; "": not known
	Created time.Time
	Members int   // only from AllGroups
	Roles   Roles // that its members have through it; only from AllGroups
}

// Errors about groups.
var (
	ErrNoGroup     = errors.New("identity: there is no such group")
	ErrGroupExists = errors.New("identity: there is a group of this name")
	ErrGroupName   = errors.New("identity: the name of a group has 1 to 128 bytes and no control characters or commas")
	ErrGroupSource = errors.New("identity: a directory says who is in this group")
)

const maxGroupName = 128

// checkGroupName gives a name in the form in which it is stored. Commas separate
// groups where applications list them. Errors: ErrGroupName.
func checkGroupName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" || len(name) > maxGroupName || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, func(r rune) bool { return r == ',' || !unicode.IsPrint(r) }) {
		return "", ErrGroupName
	}
	return name, nil
}

// CheckGroupName reports whether a group may have a name. Errors: ErrGroupName.
func CheckGroupName(name string) error {
	_, err := checkGroupName(name)
	return err
}

const groupColumns = `SELECT g.id, g.name, g.source, g.external, g.created FROM id_groups g `

func scanGroup(scan func(...any) error) (g Group, err error) {
	var created int64
	if err := scan(&g.ID, &g.Name, &g.Source, &g.There, &created); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			err = ErrNoGroup
		}
		return Group{}, err
	}
	g.Created = time.UnixMilli(created)
	return g, nil
}

func scanGroups(q store.Querier, query string, args ...any) ([]Group, error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []Group{}
	for rows.Next() {
		g, err := scanGroup(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, rows.Err()
}

// LoadGroups are the groups of an account by its ULID, by name.
func (a *Accounts) LoadGroups(q store.Querier, id string) ([]Group, error) {
	return scanGroups(q, groupColumns+`JOIN id_group_members m ON m.group_id = g.id WHERE m.user_id = $1 ORDER BY g.folded`, id)
}

// Groups is LoadGroups.
func (a *Accounts) Groups(ctx context.Context, id string) (out []Group, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		out, err = a.LoadGroups(q, id)
		return err
	})
	return out, err
}

const countMembers = `SELECT group_id, count(*) FROM id_group_members GROUP BY group_id`

// AllGroups lists the groups by name.
func (a *Accounts) AllGroups(ctx context.Context) (out []Group, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		if out, err = scanGroups(q, groupColumns+`ORDER BY g.folded`); err != nil {
			return err
		}
		roles, err := everybodysRoles(q)
		if err != nil {
			return err
		}
		rows, err := q.Query(countMembers)
		if err != nil {
			return err
		}
		defer rows.Close()
		members := map[string]int{}
		for rows.Next() {
			var id string
			var n int
			if err := rows.Scan(&id, &n); err != nil {
				return err
			}
			members[id] = n
		}
		for i := range out {
			out[i].Members, out[i].Roles = members[out[i].ID], roles[out[i].ID]
		}
		return rows.Err()
	})
	return out, err
}

// LoadGroup finds a group by its name, in any case. Errors: ErrNoGroup.
func (a *Accounts) LoadGroup(q store.Querier, name string) (Group, error) {
	return scanGroup(q.QueryRow(groupColumns+`WHERE g.folded = $1`, strings.ToLower(strings.TrimSpace(name))).Scan)
}

func (a *Accounts) loadGroupByID(q store.Querier, id string) (Group, error) {
	return scanGroup(q.QueryRow(groupColumns+`WHERE g.id = $1`, id).Scan)
}

const insertGroup = `INSERT INTO id_groups (id, name, folded, source, external, created) VALUES ($1, $2, $3, $4, $5, $6)`

// CreateGroupTx makes a group. Errors: ErrGroupName, ErrGroupExists.
func (a *Accounts) CreateGroupTx(tx *store.Tx, name, source string) (Group, error) {
	return a.createGroupTx(tx, name, source, "")
}

func (a *Accounts) createGroupTx(tx *store.Tx, name, source, there string) (Group, error) {
	name, err := checkGroupName(name)
	if err != nil {
		return Group{}, err
	}
	g := Group{ID: NewULID(a.Now()), Name: name, Source: source, There: there, Created: a.Now()}
	if _, err := a.LoadGroup(tx, name); !errors.Is(err, ErrNoGroup) {
		if err == nil {
			err = ErrGroupExists
		}
		return Group{}, err
	}
	if _, err = tx.Exec(insertGroup, g.ID, g.Name, strings.ToLower(g.Name), g.Source, g.There, g.Created.UnixMilli()); err != nil {
		return Group{}, err
	}
	return g, a.noteGroup(tx, "group.create", g, audit.Data{"source": source})
}

// noteGroup has something in the audit log that happened to a group.
func (a *Accounts) noteGroup(tx *store.Tx, event string, g Group, d audit.Data) error {
	return a.Audit.Tx(tx.Context(), tx, audit.Event{Name: event, Target: g.Name, Data: d})
}

// groupChanged tells who wants to know, once the write is on disk.
func (a *Accounts) groupChanged(tx *store.Tx, g Group) {
	if a.GroupChanged != nil {
		tx.AfterCommit(func() { a.GroupChanged(g.ID) })
	}
}

const selectGroupName = `SELECT name FROM id_groups WHERE id = $1`

// GroupName is the name of a group by its ULID. Errors: store.ErrNotFound.
func (a *Accounts) GroupName(q store.Querier, id string) (name string, err error) {
	return name, q.QueryRow(selectGroupName, id).Scan(&name)
}

const selectActiveMembers = `SELECT u.localpart FROM id_group_members m JOIN id_users u ON u.id = m.user_id
WHERE m.group_id = $1 AND u.state = 'active' ORDER BY u.localpart`

// ActiveMembers are the user IDs of who is in a group, by its ULID, and whose account is
// neither locked nor closed.
func (a *Accounts) ActiveMembers(q store.Querier, id string) (out []string, err error) {
	rows, err := q.Query(selectActiveMembers, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var l string
		if err := rows.Scan(&l); err != nil {
			return nil, err
		}
		out = append(out, a.UserID(l))
	}
	return out, rows.Err()
}

const renameGroup = `UPDATE id_groups SET name = $2, folded = $3 WHERE id = $1`

// RenameGroupTx gives a group another name. Errors: ErrGroupName, ErrGroupExists, ErrGroupSource.
func (a *Accounts) RenameGroupTx(tx *store.Tx, g Group, name string) error {
	name, err := checkGroupName(name)
	if err != nil {
		return err
	}
	if g.Source != LocalGroup {
		return ErrGroupSource
	}
	other, err := a.LoadGroup(tx, name)
	switch {
	case err == nil && other.ID != g.ID:
		return ErrGroupExists
	case err != nil && !errors.Is(err, ErrNoGroup):
		return err
	}
	return a.renameTx(tx, g, name)
}

// renameTx renames any group to a name that is free, wherever it is kept by its name.
func (a *Accounts) renameTx(tx *store.Tx, g Group, name string) error {
	if _, err := tx.Exec(renameGroup, g.ID, name, strings.ToLower(name)); err != nil {
		return err
	}
	if a.groupRenamed != nil {
		if err := a.groupRenamed(tx, g); err != nil {
			return err
		}
	}
	return a.noteGroup(tx, "group.rename", g, audit.Data{"to": name})
}

// OnGroupRename has f called in the write that renames a group. Call it before the
// accounts are used.
func (a *Accounts) OnGroupRename(f func(tx *store.Tx, g Group) error) { a.groupRenamed = f }

const (
	deleteGroup   = `DELETE FROM id_groups WHERE id = $1`
	deleteMembers = `DELETE FROM id_group_members WHERE group_id = $1`
)

// DeleteGroupTx removes a group, and what its members might do through it.
func (a *Accounts) DeleteGroupTx(tx *store.Tx, g Group) error {
	for _, q := range []string{deleteGroup, deleteMembers, dropGivenIn, dropGrants} {
		if _, err := tx.Exec(q, g.ID); err != nil {
			return err
		}
	}
	a.groupChanged(tx, g)
	return a.noteGroup(tx, "group.delete", g, nil)
}

const selectMembers = `SELECT user_id FROM id_group_members WHERE group_id = $1 ORDER BY user_id`

// MemberIDs are the ULIDs of who is in a group.
func (a *Accounts) MemberIDs(q store.Querier, g Group) (ids []string, err error) {
	rows, err := q.Query(selectMembers, g.ID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

const (
	insertMember = `INSERT INTO id_group_members (group_id, user_id, since) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	deleteMember = `DELETE FROM id_group_members WHERE group_id = $1 AND user_id = $2`
	leaveGroups  = `DELETE FROM id_group_members WHERE user_id = $1`
)

// AddMemberTx puts somebody into a group. Errors: ErrGroupSource, ErrDeactivated.
func (a *Accounts) AddMemberTx(tx *store.Tx, g Group, u User) error {
	switch {
	case g.Source != LocalGroup:
		return ErrGroupSource
	case u.State == Deactivated:
		return ErrDeactivated
	}
	if _, err := tx.Exec(dropGiven, g.ID, u.ID); err != nil { // by hand from now on
		return err
	}
	return a.joinTx(tx, g, u)
}

func (a *Accounts) joinTx(tx *store.Tx, g Group, u User) error {
	n, err := tx.Exec(insertMember, g.ID, u.ID, a.Now().UnixMilli())
	if err != nil || n == 0 {
		return err
	}
	a.groupChanged(tx, g)
	return a.noteGroup(tx, "group.join", g, audit.Data{"user": u.UserID})
}

func (a *Accounts) leaveTx(tx *store.Tx, g Group, u User) error {
	if _, err := tx.Exec(dropGiven, g.ID, u.ID); err != nil {
		return err
	}
	n, err := tx.Exec(deleteMember, g.ID, u.ID)
	if err != nil || n == 0 {
		return err
	}
	a.groupChanged(tx, g)
	return a.noteGroup(tx, "group.leave", g, audit.Data{"user": u.UserID})
}

// RemoveMemberTx takes somebody out of a group. Errors: ErrGroupSource.
func (a *Accounts) RemoveMemberTx(tx *store.Tx, g Group, u User) error {
	if g.Source != LocalGroup {
		return ErrGroupSource
	}
	return a.leaveTx(tx, g, u)
}

// GrantGroupTx gives the members of a group a role. Errors: ErrGroupRole.
func (a *Accounts) GrantGroupTx(tx *store.Tx, g Group, role Roles) error {
	if role&Owner != 0 {
		return ErrGroupRole
	}
	if err := a.grant(tx, g.ID, role); err != nil {
		return err
	}
	return a.noteGroup(tx, "group.grant", g, audit.Data{"roles": role.Names()})
}

// RevokeGroupTx takes a role away from the members of a group.
func (a *Accounts) RevokeGroupTx(tx *store.Tx, g Group, role Roles) error {
	if err := revoke(tx, g.ID, role); err != nil {
		return err
	}
	return a.noteGroup(tx, "group.revoke", g, audit.Data{"roles": role.Names()})
}
