package admin

import (
	"database/sql"
	"errors"

	"holdfast/store"
)

// note is what administrators noted about a user.
type note struct{ userType string }

func loadNote(q store.Querier, userID string) (n note, err error) {
	err = q.QueryRow(`SELECT user_type FROM admin_users WHERE user_id = $1`, userID).Scan(&n.userType)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return n, err
}

func listTypes(q store.Querier) (map[string]string, error) {
	rows, err := q.Query(`SELECT user_id, user_type FROM admin_users WHERE user_type <> ''`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var id, typ string
		if err := rows.Scan(&id, &typ); err != nil {
			return nil, err
		}
		out[id] = typ
	}
	return out, rows.Err()
}

func storeType(tx *store.Tx, userID, typ string) error {
	_, err := tx.Exec(`INSERT INTO admin_users (user_id, user_type) VALUES ($1, $2)
		ON CONFLICT (user_id) DO UPDATE SET user_type = excluded.user_type`, userID, typ)
	return err
}

func listRates(q store.Querier) (map[string]Rate, error) {
	rows, err := q.Query(`SELECT user_id, per_second, coalesce(burst, 0) FROM admin_users WHERE per_second IS NOT NULL`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]Rate{}
	for rows.Next() {
		var id string
		var r Rate
		if err := rows.Scan(&id, &r.PerSecond, &r.Burst); err != nil {
			return nil, err
		}
		out[id] = r
	}
	return out, rows.Err()
}

// updateRate sets a user's own limit, nil for none.
func updateRate(tx *store.Tx, userID string, r *Rate) error {
	var perSecond, burst sql.NullInt64
	if r != nil {
		perSecond, burst = sql.NullInt64{Int64: r.PerSecond, Valid: true}, sql.NullInt64{Int64: r.Burst, Valid: true}
	}
	_, err := tx.Exec(`INSERT INTO admin_users (user_id, per_second, burst) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET per_second = excluded.per_second, burst = excluded.burst`, userID, perSecond, burst)
	return err
}
