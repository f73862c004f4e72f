package account

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/store"
)

// This file has the groups of directories. A group there is the same group here by what
// the directory calls it for good (entryUUID, objectGUID), whatever its name becomes: its
// rooms, roles and applications stay with it. A name alone never gives somebody a group:
// where another group has it, here or there, the group is left out.

// DirectoryGroup is a group as a directory or a list names it.
type DirectoryGroup struct {
	ID   string // what stays when it is renamed; "": only its name is known
	Name string
}

const (
	selectTheirs  = groupColumns + `WHERE g.source = $1 ORDER BY g.folded`
	selectThere   = groupColumns + `WHERE g.source = $1 AND g.external = $2 AND g.external <> ''`
	updateThere   = `UPDATE id_groups SET external = $2 WHERE id = $1`
	forgetTheirID = `UPDATE id_groups SET external = '' WHERE source = $1`
)

// theirs finds the group here that is one of a directory. One of which only the name was
// known, as those of earlier versions, is known by its ID from now on. Errors:
// ErrNoGroup; ErrGroupExists, where its name is another group's.
func (a *Accounts) theirs(tx *store.Tx, directory string, d DirectoryGroup) (Group, error) {
	if d.ID != "" {
		if g, err := scanGroup(tx.QueryRow(selectThere, directory, d.ID).Scan); !errors.Is(err, ErrNoGroup) {
			return g, err
		}
	}
	g, err := a.LoadGroup(tx, d.Name)
	if err != nil {
		return Group{}, err
	}
	if g.Source != directory || g.There != "" {
		return Group{}, ErrGroupExists
	}
	if d.ID != "" {
		g.There = d.ID
		_, err = tx.Exec(updateThere, g.ID, d.ID)
	}
	return g, err
}

// SetDirectoryGroupsTx makes the groups of a directory that somebody is in exactly
// these, and makes those that are new. One whose name is a local group's, another
// directory's, another one's of this directory, or no name for a group is left out: who
// may do what here is not decided by a name that somebody chose there.
func (a *Accounts) SetDirectoryGroupsTx(tx *store.Tx, u User, directory string, groups []DirectoryGroup) error {
	var want []Group
	for _, d := range groups {
		g, err := a.theirs(tx, directory, d)
		switch {
		case errors.Is(err, ErrNoGroup):
			if g, err = a.createGroupTx(tx, d.Name, directory, d.ID); errors.Is(err, ErrGroupName) {
				continue
			}
		case errors.Is(err, ErrGroupExists):
			continue
		case err == nil:
			err = a.followName(tx, g, d.Name)
		}
		if err != nil {
			return err
		}
		want = append(want, g)
	}
	have, err := a.LoadGroups(tx, u.ID)
	if err != nil {
		return err
	}
	for _, g := range have {
		if g.Source == directory && !slices.ContainsFunc(want, func(w Group) bool { return w.ID == g.ID }) {
			if err := a.leaveTx(tx, g, u); err != nil {
				return err
			}
		}
	}
	for _, g := range want {
		if err := a.joinTx(tx, g, u); err != nil {
			return err
		}
	}
	return nil
}

// followName gives a group the name that it has there, if that is one and is free.
func (a *Accounts) followName(tx *store.Tx, g Group, name string) error {
	name, err := checkGroupName(name)
	if err != nil || name == g.Name {
		return nil
	}
	other, err := a.LoadGroup(tx, name)
	if errors.Is(err, ErrNoGroup) || err == nil && other.ID == g.ID {
		return a.renameTx(tx, g, name)
	}
	return err
}

// FollowDirectoryTx takes all groups of a directory: those that were renamed there are
// renamed here. One that is gone keeps what was given to it, with nobody in it; where a
// group there has its name now, it makes way. It returns the renamed ones, as "from -> to",
// and the names of those that are left out, as another group has the name.
func (a *Accounts) FollowDirectoryTx(tx *store.Tx, directory string, all []DirectoryGroup) (renamed, taken []string, err error) {
	there, named := map[string]string{}, map[string]bool{} // IDs there, and names of those that have none
	for _, d := range all {
		if d.ID != "" {
			there[d.ID] = d.Name
		} else {
			named[strings.ToLower(strings.TrimSpace(d.Name))] = true
		}
	}
	here, err := scanGroups(tx, selectTheirs, directory)
	if err != nil {
		return nil, nil, err
	}
	was := map[string]string{}
	for _, g := range here {
		was[g.ID] = g.Name
	}
	for _, d := range all {
		name, err := checkGroupName(d.Name)
		if err != nil {
			continue
		}
		g, err := a.theirs(tx, directory, d)
		if errors.Is(err, ErrNoGroup) {
			continue // made when somebody with an account is in it
		}
		if err != nil && !errors.Is(err, ErrGroupExists) {
			return nil, nil, err
		}
		if err == nil && g.Name == name {
			continue
		}
		other, e := a.LoadGroup(tx, name)
		if e != nil && !errors.Is(e, ErrNoGroup) {
			return nil, nil, e
		}
		if e == nil && other.ID != g.ID {
			// Whether the group that has the name is still called so there.
			now, is := there[other.There]
			if other.There == "" {
				is = named[strings.ToLower(other.Name)]
				now = other.Name
			}
			if other.Source != directory || d.ID == "" || is && strings.EqualFold(strings.TrimSpace(now), other.Name) {
				taken = append(taken, name)
				continue
			}
			if err := a.makeWayTx(tx, other); err != nil {
				return nil, nil, err
			}
		}
		if err == nil {
			if err := a.renameTx(tx, g, name); err != nil {
				return nil, nil, err
			}
		}
	}
	if here, err = scanGroups(tx, selectTheirs, directory); err != nil {
		return nil, nil, err
	}
	for _, g := range here {
		if from := was[g.ID]; from != g.Name {
			renamed = append(renamed, from+" -> "+g.Name)
		}
	}
	return renamed, taken, nil
}

// makeWayTx gives a group a name that is free, beginning with that which it has.
func (a *Accounts) makeWayTx(tx *store.Tx, g Group) error {
	for n := 1; ; n++ {
		after := " (gone)"
		if n > 1 {
			after = fmt.Sprintf(" (gone %d)", n)
		}
		name := strings.ToValidUTF8(g.Name[:min(len(g.Name), maxGroupName-len(after))], "") + after
		_, err := a.LoadGroup(tx, name)
		switch {
		case errors.Is(err, ErrNoGroup):
			return a.renameTx(tx, g, name)
		case err != nil:
			return err
		}
	}
}

// ForgetDirectoryIDsTx forgets what a directory calls its groups for good: they are known
// by their names until it is read again.
func (a *Accounts) ForgetDirectoryIDsTx(tx *store.Tx, directory string) error {
	_, err := tx.Exec(forgetTheirID, directory)
	return err
}
