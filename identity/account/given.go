package account

import (
	"errors"
	"slices"

	"holdfast/store"
	"holdfast/store/audit"
)

// This file keeps which memberships of local groups rest on the word of somebody
// elsewhere, so that only those are taken back when the word is. A membership without
// such a note was given by hand, and stays.

const (
	selectGiven  = `SELECT group_id FROM id_group_given WHERE user_id = $1 AND origin = $2`
	countGiven   = `SELECT count(*) FROM id_group_given WHERE group_id = $1 AND user_id = $2`
	insertGiven  = `INSERT INTO id_group_given (group_id, user_id, origin) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	deleteGiven  = `DELETE FROM id_group_given WHERE group_id = $1 AND user_id = $2 AND origin = $3`
	dropGiven    = `DELETE FROM id_group_given WHERE group_id = $1 AND user_id = $2`
	dropGivenOf  = `DELETE FROM id_group_given WHERE user_id = $1`
	dropGivenIn  = `DELETE FROM id_group_given WHERE group_id = $1`
	selectGivers = `SELECT DISTINCT user_id FROM id_group_given WHERE origin = $1 ORDER BY user_id`
	isMember     = `SELECT EXISTS (SELECT 1 FROM id_group_members WHERE group_id = $1 AND user_id = $2)`
	selectGroup  = groupColumns + `WHERE g.id = $1`
)

// GiveTx makes the local groups that somebody is in by the word of origin exactly these,
// by their ULIDs. Groups that do not exist are left out. keep takes none away. It reports
// whether the person's groups are others now.
func (a *Accounts) GiveTx(tx *store.Tx, u User, origin string, ids []string, keep bool) (changed bool, err error) {
	had, err := scanTexts(tx, selectGiven, u.ID, origin)
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		if slices.Contains(had, id) {
			continue
		}
		g, err := scanGroup(tx.QueryRow(selectGroup, id).Scan)
		if errors.Is(err, ErrNoGroup) || err == nil && g.Source != LocalGroup {
			continue
		}
		var in bool
		var others int
		if err == nil {
			err = tx.QueryRow(isMember, id, u.ID).Scan(&in)
		}
		if err == nil {
			err = tx.QueryRow(countGiven, id, u.ID).Scan(&others)
		}
		if err != nil {
			return false, err
		}
		if in && others == 0 {
			continue // by hand
		}
		if !in {
			changed = true
			if err := a.joinTx(tx, g, u); err != nil {
				return false, err
			}
		}
		if _, err := tx.Exec(insertGiven, id, u.ID, origin); err != nil {
			return false, err
		}
	}
	if keep {
		return changed, nil
	}
	for _, id := range had {
		if slices.Contains(ids, id) {
			continue
		}
		gone, err := a.takeTx(tx, u, id, origin)
		if err != nil {
			return false, err
		}
		changed = changed || gone
	}
	return changed, nil
}

// takeTx takes back what origin gave, and the membership with it unless it rests on
// somebody else's word as well.
func (a *Accounts) takeTx(tx *store.Tx, u User, id, origin string) (gone bool, err error) {
	if _, err := tx.Exec(deleteGiven, id, u.ID, origin); err != nil {
		return false, err
	}
	var others int
	if err := tx.QueryRow(countGiven, id, u.ID).Scan(&others); err != nil || others > 0 {
		return false, err
	}
	g, err := scanGroup(tx.QueryRow(selectGroup, id).Scan)
	if errors.Is(err, ErrNoGroup) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, a.leaveTx(tx, g, u)
}

// TakeAllTx takes back all that origin ever gave, and returns the ULIDs of whose groups
// are others now.
func (a *Accounts) TakeAllTx(tx *store.Tx, origin string) (changed []string, err error) {
	people, err := scanTexts(tx, selectGivers, origin)
	if err != nil {
		return nil, err
	}
	for _, id := range people {
		u, err := a.LoadByID(tx, id)
		if err != nil {
			return nil, err
		}
		other, err := a.GiveTx(tx, u, origin, nil, false)
		if err != nil {
			return nil, err
		}
		if other {
			changed = append(changed, id)
		}
	}
	return changed, nil
}

func scanTexts(q store.Querier, query string, args ...any) (out []string, err error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// TakeEmailTx gives an account an address that was proved elsewhere: by whom is noted.
// One that another account has is left there, and so is the account where it has as many
// as it may.
func (a *Accounts) TakeEmailTx(tx *store.Tx, u User, address, by string) error {
	address, err := CanonicalEmail(address)
	if err != nil {
		return err
	}
	owner, err := a.loadEmailOwner(tx, address)
	if err != nil || owner.ID != "" {
		return err
	}
	if err := a.emailsKept(tx, u.ID); err != nil {
		if errors.Is(err, ErrEmailKept) {
			err = nil
		}
		return err
	}
	have, err := listEmails(tx, u.ID)
	if err != nil || len(have) >= maxEmails {
		return err
	}
	if err := insertEmail(tx, address, u.ID, a.Now(), a.Now()); err != nil {
		return err
	}
	return a.note(tx, "email.add", u.ID, audit.Data{"address": address, "upstream": by})
}
