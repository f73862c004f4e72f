package calls

import (
	"context"
	"time"

	"holdfast/store"
	"holdfast/store/sealed"
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

// purpose is what the IDs of delegated events are sealed for: who has one may act on it.
const purpose = "delegated event"

// sealDelegations seals those that an earlier version kept in clear.
func sealDelegations(ctx context.Context, o Options) error {
	return sealed.Once(ctx, o.DB, "call_delegations", func(tx *store.Tx) (bool, error) {
		return sealed.Rewrite(tx, "call_delegations", "room, identity", func(row map[string]any) error {
			row["delay_id"] = o.Secrets.Token(purpose, row["delay_id"].(string))
			return nil
		})
	})
}

func upsertDelegation(tx *store.Tx, secrets *sealed.Box, d delegation) error {
	_, err := tx.Exec(upsertDelegationSQL, d.at.room, d.at.identity, secrets.Token(purpose, d.delayID), d.delay.Milliseconds())
	return err
}

// deleteDelegation removes a delegation unless another took its place.
func deleteDelegation(tx *store.Tx, secrets *sealed.Box, d delegation) error {
	_, err := tx.Exec(deleteDelegationSQL, d.at.room, d.at.identity, secrets.Token(purpose, d.delayID))
	return err
}

func listDelegations(q store.Querier, secrets *sealed.Box) (out []delegation, err error) {
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
		if d.delayID, err = secrets.Open(purpose, d.delayID); err != nil {
			return nil, err
		}
		d.delay = time.Duration(ms) * time.Millisecond
		out = append(out, d)
	}
	return out, rows.Err()
}

// place is a seat and who was given a token for it.
type place struct {
	at                       seat
	roomID, userID, deviceID string
}

const (
	upsertSeatSQL = `INSERT INTO call_seats (room, identity, room_id, user_id, device_id, expires) VALUES ($1, $2, $3, $4, $5, 0)
		ON CONFLICT (room, identity) DO UPDATE SET room_id = excluded.room_id, user_id = excluded.user_id,
			device_id = excluded.device_id, expires = 0`
	voidSeatSQL    = `UPDATE call_seats SET expires = $3 WHERE room = $1 AND identity = $2`
	deleteSeatSQL  = `DELETE FROM call_seats WHERE room = $1 AND identity = $2`
	expireSeatsSQL = `DELETE FROM call_seats WHERE expires BETWEEN 1 AND $1`
	listSeatsSQL   = `SELECT room, identity, room_id, user_id, device_id FROM call_seats ORDER BY room, identity`
)

func upsertSeat(tx *store.Tx, p place) error {
	_, err := tx.Exec(upsertSeatSQL, p.at.room, p.at.identity, p.roomID, p.userID, p.deviceID)
	return err
}

// voidSeat notes when the last token for a seat that was taken away runs out.
func voidSeat(tx *store.Tx, at seat, expires int64) error {
	_, err := tx.Exec(voidSeatSQL, at.room, at.identity, expires)
	return err
}

func deleteSeat(tx *store.Tx, at seat) error {
	_, err := tx.Exec(deleteSeatSQL, at.room, at.identity)
	return err
}

func expireSeats(tx *store.Tx, now int64) error {
	_, err := tx.Exec(expireSeatsSQL, now)
	return err
}

func listSeats(q store.Querier) (out []place, err error) {
	rows, err := q.Query(listSeatsSQL)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p place
		if err := rows.Scan(&p.at.room, &p.at.identity, &p.roomID, &p.userID, &p.deviceID); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}
