package media

import (
	"database/sql"
	"errors"

	"holdfast/store"
)

// record is a row of media.
type record struct {
	ID, User, Type, Name string
	Created, Expires     int64 // ms; Expires 0: it has its content
	Hash                 string
	Size                 int64
}

const insertMediaSQL = `INSERT INTO media (media_id, user_id, content_type, file_name, created_ts, expires_ts, hash, size)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

func insertMedia(tx *store.Tx, m record) error {
	_, err := tx.Exec(insertMediaSQL, m.ID, m.User, m.Type, m.Name, m.Created,
		sql.NullInt64{Int64: m.Expires, Valid: m.Expires != 0}, sql.NullString{String: m.Hash, Valid: m.Hash != ""}, m.Size)
	return err
}

const fillMediaSQL = `UPDATE media SET content_type = $2, file_name = $3, hash = $4, size = $5, expires_ts = NULL WHERE media_id = $1`

func fillMedia(tx *store.Tx, m record) error {
	_, err := tx.Exec(fillMediaSQL, m.ID, m.Type, m.Name, m.Hash, m.Size)
	return err
}

const loadMediaSQL = `SELECT user_id, content_type, file_name, created_ts, coalesce(expires_ts, 0), coalesce(hash, ''), size FROM media WHERE media_id = $1`

// loadMedia errors: store.ErrNotFound.
func loadMedia(q store.Querier, id string) (record, error) {
	m := record{ID: id}
	err := q.QueryRow(loadMediaSQL, id).Scan(&m.User, &m.Type, &m.Name, &m.Created, &m.Expires, &m.Hash, &m.Size)
	return m, err
}

const deleteExpiredSQL = `DELETE FROM media WHERE hash IS NULL AND expires_ts < $1`

func deleteExpired(tx *store.Tx, now int64) error {
	_, err := tx.Exec(deleteExpiredSQL, now)
	return err
}

const countWaitingSQL = `SELECT count(*) FROM media WHERE user_id = $1 AND hash IS NULL`

func countWaiting(q store.Querier, userID string) (n int, err error) {
	return n, q.QueryRow(countWaitingSQL, userID).Scan(&n)
}

const usedBytesSQL = `SELECT coalesce(sum(size), 0) FROM media WHERE user_id = $1`

func usedBytes(q store.Querier, userID string) (n int64, err error) {
	err = q.QueryRow(usedBytesSQL, userID).Scan(&n)
	return n, err
}

// thumb is a row of media_thumbnails.
type thumb struct {
	Hash          string // of the original
	Width, Height int
	Method        string
	Type, Blob    string
	Size          int64
}

const loadThumbSQL = `SELECT content_type, thumbnail, size FROM media_thumbnails WHERE hash = $1 AND width = $2 AND height = $3 AND method = $4`

func loadThumb(q store.Querier, t thumb) (thumb, bool, error) {
	err := q.QueryRow(loadThumbSQL, t.Hash, t.Width, t.Height, t.Method).Scan(&t.Type, &t.Blob, &t.Size)
	if errors.Is(err, store.ErrNotFound) {
		return t, false, nil
	}
	return t, err == nil, err
}

const insertThumbSQL = `INSERT INTO media_thumbnails (hash, width, height, method, content_type, thumbnail, size)
	VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`

func insertThumb(tx *store.Tx, t thumb) error {
	_, err := tx.Exec(insertThumbSQL, t.Hash, t.Width, t.Height, t.Method, t.Type, t.Blob, t.Size)
	return err
}
