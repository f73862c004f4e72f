package todevice

import (
	"math"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

const insertTxnSQL = `INSERT INTO device_message_txns (user_id, device_id, txn_id, created_ts) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`

func insertTxn(tx *store.Tx, userID, deviceID, txnID string, now int64) (fresh bool, err error) {
	n, err := tx.Exec(insertTxnSQL, userID, deviceID, txnID, now)
	return n > 0, err
}

const deleteTxnsSQL = `DELETE FROM device_message_txns WHERE created_ts < $1`

func deleteTxns(tx *store.Tx, before int64) error {
	_, err := tx.Exec(deleteTxnsSQL, before)
	return err
}

const insertMessageSQL = `INSERT INTO device_messages (user_id, device_id, pos, message) VALUES ($1, $2, $3, $4)`

func insertMessage(tx *store.Tx, userID, deviceID string, pos int64, msg []byte) error {
	_, err := tx.Exec(insertMessageSQL, userID, deviceID, pos, string(msg))
	return err
}

const listMessagesSQL = `SELECT pos, message FROM device_messages
	WHERE user_id = $1 AND device_id = $2 AND pos > $3 AND pos <= $4 ORDER BY pos LIMIT $5`

func listMessages(q store.Querier, userID, deviceID string, from, to int64, limit int) (msgs []mx.Raw, last int64, err error) {
	rows, err := q.Query(listMessagesSQL, userID, deviceID, from, to, limit)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var m []byte
		if err := rows.Scan(&last, &m); err != nil {
			return nil, 0, err
		}
		msgs = append(msgs, m)
	}
	return msgs, last, rows.Err()
}

const hasMessagesSQL = `SELECT EXISTS (SELECT 1 FROM device_messages WHERE user_id = $1 AND device_id = $2 AND pos <= $3)`

func hasMessages(q store.Querier, userID, deviceID string, upTo int64) (found bool, err error) {
	err = q.QueryRow(hasMessagesSQL, userID, deviceID, upTo).Scan(&found)
	return found, err
}

const deleteMessagesSQL = `DELETE FROM device_messages WHERE user_id = $1 AND device_id = $2 AND pos <= $3`

func deleteMessages(tx *store.Tx, userID, deviceID string, upTo int64) error {
	_, err := tx.Exec(deleteMessagesSQL, userID, deviceID, upTo)
	return err
}

const deleteDeviceTxnsSQL = `DELETE FROM device_message_txns WHERE user_id = $1 AND device_id = $2`

func deleteDevice(tx *store.Tx, userID, deviceID string) error {
	if err := deleteMessages(tx, userID, deviceID, math.MaxInt64); err != nil {
		return err
	}
	_, err := tx.Exec(deleteDeviceTxnsSQL, userID, deviceID)
	return err
}
