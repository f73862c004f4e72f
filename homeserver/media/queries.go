package media

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"holdfast/store"
)

// record is a row of media.
type record struct {
	ID, User, Type, Name string
	Created, Expires     int64 // ms; Expires 0: it has its content
	Accessed             int64 // ms; Created: never
	Hash                 string
	Size                 int64
	QuarantinedBy        string // "": it is served
	Protected            bool
	Preview              bool // the picture of a link's preview
}

const insertMediaSQL = `INSERT INTO media (media_id, user_id, content_type, file_name, created_ts, accessed_ts, expires_ts, hash, size, preview, quarantined_by)
	VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9, (SELECT by_user FROM media_quarantine WHERE hash = $7))`

// insertMedia stores a new record. Content that is in quarantine is so at once.
func insertMedia(tx *store.Tx, m record) error {
	_, err := tx.Exec(insertMediaSQL, m.ID, m.User, m.Type, m.Name, m.Created,
		sql.NullInt64{Int64: m.Expires, Valid: m.Expires != 0}, null(m.Hash), m.Size, m.Preview)
	if err != nil || m.Hash == "" {
		return err
	}
	return addUsage(tx, m.User, 1, m.Size)
}

func null(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

const fillMediaSQL = `UPDATE media SET content_type = $2, file_name = $3, hash = $4, size = $5, created_ts = $6, accessed_ts = $6, expires_ts = NULL,
	quarantined_by = coalesce(quarantined_by, (SELECT by_user FROM media_quarantine WHERE hash = $4)) WHERE media_id = $1`

// fillMedia gives a created ID its content, at m.Created.
func fillMedia(tx *store.Tx, m record) error {
	if _, err := tx.Exec(fillMediaSQL, m.ID, m.Type, m.Name, m.Hash, m.Size, m.Created); err != nil {
		return err
	}
	return addUsage(tx, m.User, 1, m.Size)
}

const addUsageSQL = `INSERT INTO media_usage (user_id, files, bytes) VALUES ($1, $2, $3)
	ON CONFLICT (user_id) DO UPDATE SET files = files + excluded.files, bytes = bytes + excluded.bytes`

func addUsage(tx *store.Tx, userID string, files, bytes int64) error {
	_, err := tx.Exec(addUsageSQL, userID, files, bytes)
	return err
}

const usedSQL = `SELECT coalesce(sum(bytes) FILTER (WHERE user_id = $1), 0), coalesce(sum(bytes) FILTER (WHERE user_id <> ''), 0) FROM media_usage`

// used is how many bytes a user has stored, and all users together. The server
// itself, with the pictures of previews, is the user "" and not among them.
func used(q store.Querier, userID string) (own, all int64, err error) {
	err = q.QueryRow(usedSQL, userID).Scan(&own, &all)
	return own, all, err
}

const recordColumns = `media_id, user_id, content_type, file_name, created_ts, coalesce(expires_ts, 0), accessed_ts, coalesce(hash, ''), size,
	coalesce(quarantined_by, ''), protected, preview`

type scanner interface{ Scan(...any) error }

func scanRecord(row scanner) (m record, err error) {
	err = row.Scan(&m.ID, &m.User, &m.Type, &m.Name, &m.Created, &m.Expires, &m.Accessed, &m.Hash, &m.Size, &m.QuarantinedBy, &m.Protected, &m.Preview)
	return m, err
}

func records(rows *sql.Rows, err error) (list []record, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		m, err := scanRecord(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, rows.Err()
}

const loadMediaSQL = `SELECT ` + recordColumns + ` FROM media WHERE media_id = $1`

// loadMedia errors: store.ErrNotFound.
func loadMedia(q store.Querier, id string) (record, error) {
	return scanRecord(q.QueryRow(loadMediaSQL, id))
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

const (
	countOfUserSQL = `SELECT count(*) FROM media WHERE user_id = $1 AND hash IS NOT NULL`
	listOfUserSQL  = `SELECT ` + recordColumns + ` FROM media WHERE user_id = $1 AND hash IS NOT NULL ORDER BY %s, media_id LIMIT $2 OFFSET $3`
)

// listOfUser lists a user's media. order is SQL: a column of ours and its direction.
func listOfUser(q store.Querier, userID, order string, from, limit int) ([]record, int64, error) {
	var total int64
	if err := q.QueryRow(countOfUserSQL, userID).Scan(&total); err != nil {
		return nil, 0, err
	}
	list, err := records(q.Query(fmt.Sprintf(listOfUserSQL, order), userID, limit, from))
	return list, total, err
}

const idsOfUserSQL = `SELECT media_id FROM media WHERE user_id = $1`

func idsOfUser(q store.Querier, userID string) ([]string, error) {
	return strs(q.Query(idsOfUserSQL, userID))
}

func strs(rows *sql.Rows, err error) (list []string, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}

const (
	quarantineHashSQL  = `INSERT INTO media_quarantine (hash, by_user, since) SELECT hash, $2, $3 FROM media WHERE media_id = $1 AND hash IS NOT NULL AND protected = 0 ON CONFLICT DO NOTHING`
	quarantineMediaSQL = `UPDATE media SET quarantined_by = $2 WHERE quarantined_by IS NULL AND protected = 0
		AND (media_id = $1 OR hash = (SELECT hash FROM media WHERE media_id = $1 AND protected = 0))`
	releaseHashSQL  = `DELETE FROM media_quarantine WHERE hash = (SELECT hash FROM media WHERE media_id = $1)`
	releaseMediaSQL = `UPDATE media SET quarantined_by = NULL WHERE quarantined_by IS NOT NULL
		AND (media_id = $1 OR hash = (SELECT hash FROM media WHERE media_id = $1))`
)

// quarantine puts media and whatever has the same content into quarantine, unless it
// is protected, and tells how many that were.
func quarantine(tx *store.Tx, id, by string, now int64) (int64, error) {
	if _, err := tx.Exec(quarantineHashSQL, id, by, now); err != nil {
		return 0, err
	}
	return tx.Exec(quarantineMediaSQL, id, by)
}

// release takes media, and whatever has the same content, out of quarantine.
func release(tx *store.Tx, id string) (int64, error) {
	if _, err := tx.Exec(releaseHashSQL, id); err != nil {
		return 0, err
	}
	return tx.Exec(releaseMediaSQL, id)
}

const protectSQL = `UPDATE media SET protected = $2 WHERE media_id = $1`

func protect(tx *store.Tx, id string, on bool) (found bool, err error) {
	n, err := tx.Exec(protectSQL, id, on)
	return n > 0, err
}

const (
	deleteMediaSQL   = `DELETE FROM media WHERE media_id = $1 RETURNING user_id, coalesce(hash, ''), size`
	hashUsedSQL      = `SELECT EXISTS (SELECT 1 FROM media WHERE hash = $1)`
	deleteThumbsSQL  = `DELETE FROM media_thumbnails WHERE hash = $1 RETURNING thumbnail`
	blobUsedSQL      = `SELECT EXISTS (SELECT 1 FROM media WHERE hash = $1) OR EXISTS (SELECT 1 FROM media_thumbnails WHERE thumbnail = $1)`
	strayThumbsSQL   = `DELETE FROM media_thumbnails WHERE NOT EXISTS (SELECT 1 FROM media WHERE media.hash = media_thumbnails.hash)`
	forgetPreviewSQL = `DELETE FROM media_previews WHERE media_id = $1`
)

// deleteMedia removes a record, and the thumbnails of its content if nothing else has
// it. blobs are what nothing may name any more. Errors: store.ErrNotFound.
func deleteMedia(tx *store.Tx, id string) (m record, blobs []string, err error) {
	m.ID = id
	if err := tx.QueryRow(deleteMediaSQL, id).Scan(&m.User, &m.Hash, &m.Size); err != nil {
		return m, nil, err
	}
	if _, err := tx.Exec(forgetPreviewSQL, id); err != nil || m.Hash == "" {
		return m, nil, err
	}
	if err := addUsage(tx, m.User, -1, -m.Size); err != nil {
		return m, nil, err
	}
	var shared bool
	if err := tx.QueryRow(hashUsedSQL, m.Hash).Scan(&shared); err != nil || shared {
		return m, nil, err
	}
	blobs, err = strs(tx.Query(deleteThumbsSQL, m.Hash))
	return m, append(blobs, m.Hash), err
}

// blobUsed reports whether a blob is a file or a thumbnail of one.
func blobUsed(q store.Querier, hash string) (yes bool, err error) {
	err = q.QueryRow(blobUsedSQL, hash).Scan(&yes)
	return yes, err
}

const (
	oldSQL = `SELECT ` + recordColumns + ` FROM media WHERE hash IS NOT NULL AND preview = 0 AND accessed_ts < $1 AND size >= $2
		AND (accessed_ts, media_id) > ($3, $4) ORDER BY accessed_ts, media_id LIMIT $5`
	accessedSQL = `UPDATE media SET accessed_ts = $2 WHERE media_id = $1 AND accessed_ts < $2`
)

// old lists media that nobody has asked for since a time, of at least a size in bytes,
// after the record given.
func old(q store.Querier, before, size int64, after record, limit int) ([]record, error) {
	return records(q.Query(oldSQL, before, size, after.Accessed, after.ID, limit))
}

func setAccessed(tx *store.Tx, id string, at int64) error {
	_, err := tx.Exec(accessedSQL, id, at)
	return err
}

const (
	countUsageSQL = `SELECT count(*) FROM media_usage WHERE files > 0 AND user_id <> '' AND instr(lower(user_id), $1) > 0`
	listUsageSQL  = `SELECT user_id, files, bytes FROM media_usage WHERE files > 0 AND user_id <> '' AND instr(lower(user_id), $1) > 0
		ORDER BY %s, user_id LIMIT $2 OFFSET $3`
	countRangeSQL = `SELECT count(*) FROM (SELECT 1 FROM media WHERE hash IS NOT NULL AND user_id <> '' AND instr(lower(user_id), $1) > 0
		AND created_ts >= $2 AND created_ts < $3 GROUP BY user_id)`
	listRangeSQL = `SELECT user_id, count(*) AS files, sum(size) AS bytes FROM media WHERE hash IS NOT NULL AND user_id <> '' AND instr(lower(user_id), $1) > 0
		AND created_ts >= $2 AND created_ts < $3 GROUP BY user_id ORDER BY %s, user_id LIMIT $4 OFFSET $5`
)

// usage lists who has stored how much. order is SQL, as in listOfUser.
func usage(q store.Querier, p UsageQuery, order string) (list []Usage, total int64, err error) {
	args := []any{strings.ToLower(p.Search)}
	count, query := countUsageSQL, listUsageSQL
	if p.Since != 0 || p.Until != 0 {
		until := p.Until
		if until == 0 {
			until = 1 << 62
		}
		args = append(args, p.Since, until)
		count, query = countRangeSQL, listRangeSQL
	}
	if err := q.QueryRow(count, args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	rows, err := q.Query(fmt.Sprintf(query, order), append(args, p.Limit, p.From)...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var u Usage
		if err := rows.Scan(&u.UserID, &u.Files, &u.Bytes); err != nil {
			return nil, 0, err
		}
		list = append(list, u)
	}
	return list, total, rows.Err()
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
	SELECT $1, $2, $3, $4, $5, $6, $7 WHERE EXISTS (SELECT 1 FROM media WHERE hash = $1) ON CONFLICT DO NOTHING`

// insertThumb keeps a thumbnail, unless its original was deleted meanwhile.
func insertThumb(tx *store.Tx, t thumb) error {
	_, err := tx.Exec(insertThumbSQL, t.Hash, t.Width, t.Height, t.Method, t.Type, t.Blob, t.Size)
	return err
}

// linkPreview is a row of media_previews.
type linkPreview struct {
	URL, Lang        string
	Fetched, Expires int64  // ms
	Answer           string // JSON
	Failure          string // kind of the error; "": there is an answer
	MediaID          string // of the picture; "": there is none
}

const (
	loadPreviewSQL = `SELECT fetched_ts, expires_ts, answer, failure, coalesce(media_id, '') FROM media_previews
		WHERE url = $1 AND lang = $2 AND fetched_ts <= $3 AND expires_ts > $3 ORDER BY fetched_ts DESC LIMIT 1`
	insertPreviewSQL = `INSERT INTO media_previews (url, lang, fetched_ts, expires_ts, answer, failure, media_id) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (url, lang, fetched_ts) DO UPDATE SET expires_ts = excluded.expires_ts, answer = excluded.answer, failure = excluded.failure, media_id = excluded.media_id`
	// Those that expire first, which are the oldest.
	oldPreviewsSQL    = `SELECT url, lang, fetched_ts, coalesce(media_id, '') FROM media_previews WHERE expires_ts < $1 ORDER BY expires_ts LIMIT $2`
	oldPicturesSQL    = `SELECT m.media_id, m.size FROM media_previews p JOIN media m ON m.media_id = p.media_id ORDER BY p.expires_ts LIMIT $1`
	strayPicturesSQL  = `SELECT media_id FROM media WHERE user_id = '' AND preview = 1 AND NOT EXISTS (SELECT 1 FROM media_previews WHERE media_previews.media_id = media.media_id)`
	deletePreviewSQL  = `DELETE FROM media_previews WHERE url = $1 AND lang = $2 AND fetched_ts = $3`
	deleteFailuresSQL = `DELETE FROM media_previews WHERE failure <> ''`
	surplusSQL        = `SELECT coalesce((SELECT expires_ts FROM media_previews ORDER BY expires_ts DESC LIMIT 1 OFFSET $1), 0)`
)

// loadPreview finds the preview of a page that held at a time.
func loadPreview(q store.Querier, url, lang string, at int64) (p linkPreview, found bool, err error) {
	p.URL, p.Lang = url, lang
	err = q.QueryRow(loadPreviewSQL, url, lang, at).Scan(&p.Fetched, &p.Expires, &p.Answer, &p.Failure, &p.MediaID)
	if errors.Is(err, store.ErrNotFound) {
		return p, false, nil
	}
	return p, err == nil, err
}

func insertPreview(tx *store.Tx, p linkPreview) error {
	_, err := tx.Exec(insertPreviewSQL, p.URL, p.Lang, p.Fetched, p.Expires, p.Answer, p.Failure, null(p.MediaID))
	return err
}

// oldPreviews lists previews that expired before a time.
func oldPreviews(q store.Querier, before int64, limit int) (list []linkPreview, err error) {
	rows, err := q.Query(oldPreviewsSQL, before, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p linkPreview
		if err := rows.Scan(&p.URL, &p.Lang, &p.Fetched, &p.MediaID); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// oldPictures lists pictures of previews, those that expire first, as many as take so
// many bytes.
func oldPictures(q store.Querier, bytes int64, limit int) (ids []string, err error) {
	rows, err := q.Query(oldPicturesSQL, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for bytes > 0 && rows.Next() {
		var id string
		var size int64
		if err := rows.Scan(&id, &size); err != nil {
			return nil, err
		}
		ids, bytes = append(ids, id), bytes-size
	}
	return ids, rows.Err()
}

// strayPictures lists pictures whose previews are gone.
func strayPictures(q store.Querier) ([]string, error) { return strs(q.Query(strayPicturesSQL)) }

func deletePreview(tx *store.Tx, p linkPreview) error {
	_, err := tx.Exec(deletePreviewSQL, p.URL, p.Lang, p.Fetched)
	return err
}

// deleteFailures forgets what could not be fetched.
func deleteFailures(tx *store.Tx) error {
	_, err := tx.Exec(deleteFailuresSQL)
	return err
}

// surplus is the time of expiry of the preview after the newest n; 0: there are no more.
func surplus(q store.Querier, n int) (expires int64, err error) {
	return expires, q.QueryRow(surplusSQL, n).Scan(&expires)
}
