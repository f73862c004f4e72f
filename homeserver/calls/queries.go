package calls

import (
	"time"

	"holdfast/store"
)

const (
	insertTokenSQL  = `INSERT INTO openid_tokens (hash, user_id, expires) VALUES ($1, $2, $3)`
	expireTokensSQL = `DELETE FROM openid_tokens WHERE expires <= $1`
	trimTokensSQL   = `DELETE FROM openid_tokens WHERE user_id = $1 AND hash NOT IN
		(SELECT hash FROM openid_tokens WHERE user_id = $1 ORDER BY expires DESC LIMIT $2)`
	loadTokenSQL = `SELECT user_id FROM openid_tokens WHERE hash = $1 AND expires > $2`
)

func insertToken(tx *store.Tx, hash []byte, userID string, expires int64) error {
	_, err := tx.Exec(insertTokenSQL, hash, userID, expires)
	return err
}

func expireTokens(tx *store.Tx, now int64) error {
	_, err := tx.Exec(expireTokensSQL, now)
	return err
}

// trimTokens keeps a user's latest tokens.
func trimTokens(tx *store.Tx, userID string, keep int) error {
	_, err := tx.Exec(trimTokensSQL, userID, keep)
	return err
}

func loadToken(q store.Querier, hash []byte, now int64) (userID string, err error) {
	err = q.QueryRow(loadTokenSQL, hash, now).Scan(&userID)
	return userID, err
}

const (
	upsertDelegationSQL = `INSERT INTO call_delegations (room, identity, delay_id, delay_ms) VALUES ($1, $2, $3, $4)
		ON CONFLICT (room, identity) DO UPDATE SET delay_id = excluded.delay_id, delay_ms = excluded.delay_ms`
	deleteDelegationSQL = `DELETE FROM call_delegations WHERE room = $1 AND identity = $2 AND delay_id = $3`
	listDelegationsSQL  = `SELECT room, identity, delay_id, delay_ms FROM call_delegations ORDER BY room, identity`
)

func upsertDelegation(tx *store.Tx, d delegation) error {
	_, err := tx.Exec(upsertDelegationSQL, d.at.room, d.at.identity, d.delayID, d.delay.Milliseconds())
	return err
}

// deleteDelegation removes a delegation unless another took its place.
func deleteDelegation(tx *store.Tx, d delegation) error {
	_, err := tx.Exec(deleteDelegationSQL, d.at.room, d.at.identity, d.delayID)
	return err
}

func listDelegations(q store.Querier) (out []delegation, err error) {
	rows, err := q.Query(listDelegationsSQL)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d delegation
		var ms int64
		if err := rows.Scan(&d.at.room, &d.at.identity, &d.delayID, &ms); err != nil {
			return nil, err
		}
		d.delay = time.Duration(ms) * time.Millisecond
		out = append(out, d)
	}
	return out, rows.Err()
}
