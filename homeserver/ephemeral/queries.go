package ephemeral

import "holdfast/store"

const loadReceiptPosSQL = `SELECT event_pos FROM room_receipts WHERE room_id = $1 AND user_id = $2 AND type = $3 AND thread_id = $4`

func loadReceiptPos(q store.Querier, roomID, userID, typ, thread string) (eventPos int64, err error) {
	err = q.QueryRow(loadReceiptPosSQL, roomID, userID, typ, thread).Scan(&eventPos)
	return eventPos, err
}

const upsertReceiptSQL = `INSERT INTO room_receipts (room_id, user_id, type, thread_id, event_id, event_pos, ts, pos) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
	ON CONFLICT (room_id, user_id, type, thread_id) DO UPDATE SET event_id = excluded.event_id, event_pos = excluded.event_pos, ts = excluded.ts, pos = excluded.pos`

func upsertReceipt(tx *store.Tx, r receipt) error {
	_, err := tx.Exec(upsertReceiptSQL, r.roomID, r.userID, r.typ, r.thread, r.eventID, r.eventPos, r.ts, r.pos)
	return err
}

const receiptColumns = `SELECT user_id, type, thread_id, event_id, event_pos, ts FROM room_receipts WHERE room_id = $1 AND `

func listRows(q store.Querier, sql string, args ...any) (out []receipt, err error) {
	rows, err := q.Query(sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r receipt
		if err := rows.Scan(&r.userID, &r.typ, &r.thread, &r.eventID, &r.eventPos, &r.ts); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

const listReceiptsSQL = receiptColumns + `pos > $2 AND pos <= $3 AND (type = 'm.read' OR type = 'm.read.private' AND user_id = $4)`

func listReceipts(q store.Querier, roomID, forUser string, from, to int64) ([]receipt, error) {
	return listRows(q, listReceiptsSQL, roomID, from, to, forUser)
}

const listReceiptsAfterSQL = `SELECT room_id, user_id, type, thread_id, event_id, ts, pos FROM room_receipts
	WHERE pos > $1 AND pos <= $2 AND type IN ('m.read', 'm.read.private') ORDER BY pos LIMIT $3`

func listReceiptsAfter(q store.Querier, from, to int64, limit int) (out []Receipt, err error) {
	rows, err := q.Query(listReceiptsAfterSQL, from, to, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r Receipt
		if err := rows.Scan(&r.RoomID, &r.UserID, &r.Type, &r.Thread, &r.EventID, &r.TS, &r.Pos); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

const listOwnReceiptsSQL = receiptColumns + `user_id = $2 AND type IN ('m.read', 'm.read.private')`

func listOwnReceipts(q store.Querier, roomID, userID string) ([]receipt, error) {
	return listRows(q, listOwnReceiptsSQL, roomID, userID)
}

const ownMovedSQL = `SELECT EXISTS (SELECT 1 FROM room_receipts WHERE room_id = $1 AND user_id = $2 AND type IN ('m.read', 'm.read.private') AND pos > $3 AND pos <= $4)`

func ownMoved(q store.Querier, roomID, userID string, from, to int64) (moved bool, err error) {
	err = q.QueryRow(ownMovedSQL, roomID, userID, from, to).Scan(&moved)
	return moved, err
}

const listPrivateRoomsSQL = `SELECT DISTINCT room_id FROM room_receipts WHERE user_id = $1 AND type = 'm.read.private' AND pos > $2 AND pos <= $3`

func listPrivateRooms(q store.Querier, userID string, from, to int64) ([]string, error) {
	return listRooms(q, listPrivateRoomsSQL, userID, from, to)
}

func listRooms(q store.Querier, sql string, args ...any) (out []string, err error) {
	rows, err := q.Query(sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}

const deleteReceiptsSQL = `DELETE FROM room_receipts WHERE user_id = $1`

func deleteReceipts(tx *store.Tx, userID string) error {
	_, err := tx.Exec(deleteReceiptsSQL, userID)
	return err
}

const (
	deleteRoomReceiptsSQL = `DELETE FROM room_receipts WHERE (room_id, user_id, type, thread_id) IN
		(SELECT room_id, user_id, type, thread_id FROM room_receipts WHERE room_id = $1 LIMIT $2)`
	deleteRoomTypingSQL = `DELETE FROM room_typing WHERE room_id = $1`
)

// deleteRoom deletes at most limit receipts of a room and tells how many there were.
func deleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	if _, err := tx.Exec(deleteRoomTypingSQL, roomID); err != nil {
		return 0, err
	}
	return tx.Exec(deleteRoomReceiptsSQL, roomID, limit)
}

const (
	insertTypingSQL = `INSERT INTO room_typing (room_id) VALUES ($1) ON CONFLICT DO NOTHING`
	takeTypingSQL   = `DELETE FROM room_typing RETURNING room_id`
)

func insertTyping(tx *store.Tx, roomID string) error {
	_, err := tx.Exec(insertTypingSQL, roomID)
	return err
}

// takeTyping lists and forgets the rooms in which somebody typed.
func takeTyping(tx *store.Tx) ([]string, error) {
	return listRooms(tx, takeTypingSQL)
}

// presenceRow is one row of user_presence.
type presenceRow struct {
	userID, state, status string
	active, pos           int64
}

const (
	upsertPresenceSQL = `INSERT INTO user_presence (user_id, state, status_msg, active, pos) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (user_id) DO UPDATE SET state = excluded.state, status_msg = excluded.status_msg, active = excluded.active, pos = excluded.pos`
	listPresenceSQL   = `SELECT user_id, state, status_msg, active, pos FROM user_presence`
	deletePresenceSQL = `DELETE FROM user_presence WHERE user_id = $1`
)

func upsertPresence(tx *store.Tx, r presenceRow) error {
	_, err := tx.Exec(upsertPresenceSQL, r.userID, r.state, r.status, r.active, r.pos)
	return err
}

func listPresence(q store.Querier) (out []presenceRow, err error) {
	rows, err := q.Query(listPresenceSQL)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r presenceRow
		if err := rows.Scan(&r.userID, &r.state, &r.status, &r.active, &r.pos); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func deletePresence(tx *store.Tx, userID string) error {
	_, err := tx.Exec(deletePresenceSQL, userID)
	return err
}
