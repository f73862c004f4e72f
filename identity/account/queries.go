package account

import (
	"encoding/binary"
	"errors"
	"time"

	"holdfast/store"
)

const userColumns = `SELECT u.id, u.localpart, u.display_name, u.state, u.suspended, u.created, u.last_seen, p.user_id IS NOT NULL
FROM id_users u LEFT JOIN id_passwords p ON p.user_id = u.id `

func (a *Accounts) scanUser(scan func(...any) error) (u User, err error) {
	var created, seen int64
	if err := scan(&u.ID, &u.Localpart, &u.DisplayName, &u.State, &u.Suspended, &created, &seen, &u.HasPassword); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			err = ErrNoUser
		}
		return User{}, err
	}
	u.UserID, u.Created = a.UserID(u.Localpart), time.UnixMilli(created)
	if seen != 0 {
		u.LastSeen = time.UnixMilli(seen)
	}
	return u, nil
}

// withRoles is scanUser with the account's roles.
func (a *Accounts) withRoles(q store.Querier, scan func(...any) error) (User, error) {
	u, err := a.scanUser(scan)
	if err == nil {
		u.Roles, err = scanRoles(q, allGrants, u.ID)
	}
	u.Admin = u.Roles.Administers()
	return u, err
}

const selectUserByLocalpart = userColumns + `WHERE u.localpart = $1`

// LoadByLocalpart loads an account. Errors: ErrNoUser.
func (a *Accounts) LoadByLocalpart(q store.Querier, localpart string) (User, error) {
	return a.withRoles(q, q.QueryRow(selectUserByLocalpart, localpart).Scan)
}

const selectUserByID = userColumns + `WHERE u.id = $1`

// LoadByID loads an account by its ULID. Errors: ErrNoUser.
func (a *Accounts) LoadByID(q store.Querier, id string) (User, error) {
	return a.withRoles(q, q.QueryRow(selectUserByID, id).Scan)
}

const selectUsers = userColumns + `ORDER BY u.localpart`

func (a *Accounts) listUsers(q store.Querier) ([]User, error) {
	roles, err := everybodysRoles(q)
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(selectUsers)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var us []User
	for rows.Next() {
		u, err := a.scanUser(rows.Scan)
		if err != nil {
			return nil, err
		}
		u.Roles = roles[u.ID]
		u.Admin = u.Roles.Administers()
		us = append(us, u)
	}
	return us, rows.Err()
}

const insertUserSQL = `INSERT INTO id_users (id, localpart, display_name, state, source, created, last_seen)
VALUES ($1, $2, $3, $4, $5, $6, 0)`

func insertUser(tx *store.Tx, u User, source string) error {
	_, err := tx.Exec(insertUserSQL, u.ID, u.Localpart, u.DisplayName, u.State, source, u.Created.UnixMilli())
	return err
}

const updateStateSQL = `UPDATE id_users SET state = $2 WHERE id = $1`

func updateState(tx *store.Tx, id, state string) error {
	_, err := tx.Exec(updateStateSQL, id, state)
	return err
}

const updateSuspendedSQL = `UPDATE id_users SET suspended = $2 WHERE id = $1`

func updateSuspended(tx *store.Tx, id string, suspended bool) error {
	_, err := tx.Exec(updateSuspendedSQL, id, suspended)
	return err
}

const updateSeenSQL = `UPDATE id_users SET last_seen = $2 WHERE id = $1`

// SeenTx notes that a user signed in.
func (a *Accounts) SeenTx(tx *store.Tx, id string) error {
	_, err := tx.Exec(updateSeenSQL, id, a.Now().UnixMilli())
	return err
}

const selectPassword = `SELECT phc FROM id_passwords WHERE user_id = $1`

func loadPassword(q store.Querier, id string) (string, error) {
	var s string
	err := q.QueryRow(selectPassword, id).Scan(&s)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return s, err
}

const (
	countPasswords = `SELECT count(*) FROM id_passwords`
	selectNth      = `SELECT phc FROM id_passwords ORDER BY user_id LIMIT 1 OFFSET $1`
)

// decoy is the password to compare with where a name has none: one of those that
// there are, and for the same name the same one. Hashes are of different cost after
// a calibration that came out differently, and the time tells the cost.
func decoy(q store.Querier, localpart string) (hash string, err error) {
	var n uint64
	if err := q.QueryRow(countPasswords).Scan(&n); err != nil || n == 0 {
		return "", err
	}
	nth := binary.BigEndian.Uint64(Hash("decoy\x00"+localpart)) % n
	return hash, q.QueryRow(selectNth, int64(nth)).Scan(&hash)
}

const upsertPasswordSQL = `INSERT INTO id_passwords (user_id, phc, changed) VALUES ($1, $2, $3)
ON CONFLICT (user_id) DO UPDATE SET phc = excluded.phc, changed = excluded.changed`

func upsertPassword(tx *store.Tx, id, hash string, now time.Time) error {
	_, err := tx.Exec(upsertPasswordSQL, id, hash, now.UnixMilli())
	return err
}

const deletePasswordSQL = `DELETE FROM id_passwords WHERE user_id = $1`

func deletePassword(tx *store.Tx, id string) error {
	_, err := tx.Exec(deletePasswordSQL, id)
	return err
}

const upsertResetSQL = `INSERT INTO id_resets (user_id, until) VALUES ($1, $2)
ON CONFLICT (user_id) DO UPDATE SET until = excluded.until`

func upsertReset(tx *store.Tx, id string, until time.Time) error {
	_, err := tx.Exec(upsertResetSQL, id, until.UnixMilli())
	return err
}

const selectReset = `SELECT count(*) FROM id_resets WHERE user_id = $1 AND until > $2`

func loadReset(q store.Querier, id string, now time.Time) (bool, error) {
	var n int
	err := q.QueryRow(selectReset, id, now.UnixMilli()).Scan(&n)
	return n > 0, err
}
