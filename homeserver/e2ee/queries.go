package e2ee

import (
	"holdfast/homeserver/mx"
	"holdfast/store"
)

// Device keys.

const loadDeviceKeysSQL = `SELECT keys FROM e2ee_device_keys WHERE user_id = $1 AND device_id = $2`

func loadDeviceKeys(q store.Querier, userID, deviceID string) (keys []byte, err error) {
	err = q.QueryRow(loadDeviceKeysSQL, userID, deviceID).Scan(&keys)
	return keys, err
}

const listDeviceKeysSQL = `SELECT device_id, keys FROM e2ee_device_keys WHERE user_id = $1`

func listDeviceKeys(q store.Querier, userID string) (map[string]mx.Raw, error) {
	rows, err := q.Query(listDeviceKeysSQL, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]mx.Raw{}
	for rows.Next() {
		var id string
		var keys []byte
		if err := rows.Scan(&id, &keys); err != nil {
			return nil, err
		}
		out[id] = keys
	}
	return out, rows.Err()
}

const upsertDeviceKeysSQL = `INSERT INTO e2ee_device_keys (user_id, device_id, keys) VALUES ($1, $2, $3)
	ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys`

func upsertDeviceKeys(tx *store.Tx, userID, deviceID string, keys []byte) error {
	_, err := tx.Exec(upsertDeviceKeysSQL, userID, deviceID, string(keys))
	return err
}

const (
	deleteDeviceKeysSQL    = `DELETE FROM e2ee_device_keys WHERE user_id = $1 AND device_id = $2`
	deleteOneTimeKeysSQL   = `DELETE FROM e2ee_one_time_keys WHERE user_id = $1 AND device_id = $2`
	deleteFallbackKeysSQL  = `DELETE FROM e2ee_fallback_keys WHERE user_id = $1 AND device_id = $2`
	deleteDehydratedSQL    = `DELETE FROM e2ee_dehydrated WHERE user_id = $1 AND device_id = $2`
	deleteSignaturesOnSQL  = `DELETE FROM e2ee_signatures WHERE user_id = $1 AND target = $2`
	deleteSignaturesBySQL  = `DELETE FROM e2ee_signatures WHERE signer = $1 AND key_id = $2`
	deleteCrossSigningSQL  = `DELETE FROM e2ee_cross_signing_keys WHERE user_id = $1 AND usage = $2`
	ed25519Prefix          = "ed25519:"
	deleteBackupKeysSQL    = `DELETE FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2`
	deleteBackupRoomSQL    = deleteBackupKeysSQL + ` AND room_id = $3`
	deleteBackupSessionSQL = deleteBackupRoomSQL + ` AND session_id = $4`
)

// deleteDeviceKeys removes all keys of a device and what was signed by or on it.
// had: it had identity keys, so that others knew it.
func deleteDeviceKeys(tx *store.Tx, userID, deviceID string) (had bool, err error) {
	n, err := tx.Exec(deleteDeviceKeysSQL, userID, deviceID)
	if err != nil {
		return false, err
	}
	for _, sql := range []string{deleteOneTimeKeysSQL, deleteFallbackKeysSQL, deleteDehydratedSQL, deleteSignaturesOnSQL} {
		if _, err := tx.Exec(sql, userID, deviceID); err != nil {
			return false, err
		}
	}
	_, err = tx.Exec(deleteSignaturesBySQL, userID, ed25519Prefix+deviceID)
	return n > 0, err
}

// One-time and fallback keys.

const loadOneTimeKeySQL = `SELECT key FROM e2ee_one_time_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = $4`

func loadOneTimeKey(q store.Querier, userID, deviceID, algorithm, id string) (key []byte, err error) {
	err = q.QueryRow(loadOneTimeKeySQL, userID, deviceID, algorithm, id).Scan(&key)
	return key, err
}

const insertOneTimeKeySQL = `INSERT INTO e2ee_one_time_keys (user_id, device_id, algorithm, key_id, key) VALUES ($1, $2, $3, $4, $5)`

func insertOneTimeKey(tx *store.Tx, userID, deviceID string, k namedKey) error {
	_, err := tx.Exec(insertOneTimeKeySQL, userID, deviceID, k.algorithm, k.id, string(k.key))
	return err
}

const takeOneTimeKeySQL = `DELETE FROM e2ee_one_time_keys WHERE seq = (
	SELECT seq FROM e2ee_one_time_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 ORDER BY seq LIMIT 1
) RETURNING key_id, key`

// takeOneTimeKey removes and returns the oldest key. Errors: store.ErrNotFound.
func takeOneTimeKey(tx *store.Tx, userID, deviceID, algorithm string) (k namedKey, err error) {
	k.algorithm = algorithm
	err = tx.QueryRow(takeOneTimeKeySQL, userID, deviceID, algorithm).Scan(&k.id, &k.key)
	return k, err
}

const upsertFallbackKeySQL = `INSERT INTO e2ee_fallback_keys (user_id, device_id, algorithm, key_id, key) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, key = excluded.key,
		used = CASE WHEN key_id = excluded.key_id AND key = excluded.key THEN used ELSE 0 END`

// upsertFallbackKey replaces the algorithm's key. The same key again stays used.
func upsertFallbackKey(tx *store.Tx, userID, deviceID string, k namedKey) error {
	_, err := tx.Exec(upsertFallbackKeySQL, userID, deviceID, k.algorithm, k.id, string(k.key))
	return err
}

const loadFallbackKeySQL = `SELECT key_id, key, used FROM e2ee_fallback_keys WHERE user_id = $1 AND device_id = $2 AND algorithm = $3`

func loadFallbackKey(q store.Querier, userID, deviceID, algorithm string) (k namedKey, used bool, err error) {
	k.algorithm = algorithm
	err = q.QueryRow(loadFallbackKeySQL, userID, deviceID, algorithm).Scan(&k.id, &k.key, &used)
	return k, used, err
}

const markFallbackUsedSQL = `UPDATE e2ee_fallback_keys SET used = 1 WHERE user_id = $1 AND device_id = $2 AND algorithm = $3`

func markFallbackUsed(tx *store.Tx, userID, deviceID, algorithm string) error {
	_, err := tx.Exec(markFallbackUsedSQL, userID, deviceID, algorithm)
	return err
}

const (
	countKeysSQL      = `SELECT algorithm, count(*) FROM e2ee_one_time_keys WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm`
	unusedFallbackSQL = `SELECT algorithm FROM e2ee_fallback_keys WHERE user_id = $1 AND device_id = $2 AND used = 0 ORDER BY algorithm`
)

func loadCounts(q store.Querier, userID, deviceID string) (*deviceCounts, error) {
	c := &deviceCounts{otk: map[string]int{signedCurve: 0}, fallback: []string{}}
	rows, err := q.Query(countKeysSQL, userID, deviceID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var algorithm string
		var n int
		if err := rows.Scan(&algorithm, &n); err != nil {
			return nil, err
		}
		c.otk[algorithm] = n
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	c.fallback, err = listStrings(q, c.fallback, unusedFallbackSQL, userID, deviceID)
	return c, err
}

// listStrings appends the one column of a query's rows.
func listStrings(q store.Querier, out []string, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(sql, args...)
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

// Cross-signing keys and signatures.

// storedKey is a cross-signing key as it is stored.
type storedKey struct {
	public string
	key    []byte
}

const listCrossSigningSQL = `SELECT usage, public_key, key FROM e2ee_cross_signing_keys WHERE user_id = $1`

func listCrossSigningKeys(q store.Querier, userID string) (map[string]storedKey, error) {
	rows, err := q.Query(listCrossSigningSQL, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]storedKey{}
	for rows.Next() {
		var usage string
		var k storedKey
		if err := rows.Scan(&usage, &k.public, &k.key); err != nil {
			return nil, err
		}
		out[usage] = k
	}
	return out, rows.Err()
}

const loadPublicKeySQL = `SELECT public_key FROM e2ee_cross_signing_keys WHERE user_id = $1 AND usage = $2`

func loadPublicKey(q store.Querier, userID, usage string) (pub string, err error) {
	err = q.QueryRow(loadPublicKeySQL, userID, usage).Scan(&pub)
	return pub, err
}

const isPublicKeySQL = `SELECT EXISTS (SELECT 1 FROM e2ee_cross_signing_keys WHERE user_id = $1 AND public_key = $2)`

// IsPublicKey reports whether a device ID is a cross-signing key of the user's, which
// could then not be told from a device.
func (s *Service) IsPublicKey(q store.Querier, userID, deviceID string) (bool, error) {
	return isPublicKey(q, userID, deviceID)
}

func isPublicKey(q store.Querier, userID, id string) (found bool, err error) {
	err = q.QueryRow(isPublicKeySQL, userID, id).Scan(&found)
	return found, err
}

const upsertCrossSigningSQL = `INSERT INTO e2ee_cross_signing_keys (user_id, usage, public_key, key) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id, usage) DO UPDATE SET public_key = excluded.public_key, key = excluded.key`

func upsertCrossSigningKey(tx *store.Tx, userID, usage, public string, key []byte) error {
	_, err := tx.Exec(upsertCrossSigningSQL, userID, usage, public, string(key))
	return err
}

// deleteCrossSigningKey removes a key with what it signed and who signed it.
func deleteCrossSigningKey(tx *store.Tx, userID, usage, public string) error {
	if _, err := tx.Exec(deleteCrossSigningSQL, userID, usage); err != nil {
		return err
	}
	if _, err := tx.Exec(deleteSignaturesBySQL, userID, ed25519Prefix+public); err != nil {
		return err
	}
	return deleteSignaturesOn(tx, userID, public)
}

func deleteSignaturesOn(tx *store.Tx, userID, target string) error {
	_, err := tx.Exec(deleteSignaturesOnSQL, userID, target)
	return err
}

const upsertSignatureSQL = `INSERT INTO e2ee_signatures (user_id, target, signer, key_id, signature) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (user_id, target, signer, key_id) DO UPDATE SET signature = excluded.signature WHERE signature <> excluded.signature`

// upsertSignature reports whether it changed anything.
func upsertSignature(tx *store.Tx, s signature) (fresh bool, err error) {
	n, err := tx.Exec(upsertSignatureSQL, s.userID, s.target, s.signer, s.keyID, s.sig)
	return n > 0, err
}

const listSignaturesSQL = `SELECT target, signer, key_id, signature FROM e2ee_signatures WHERE user_id = $1 AND signer IN ($1, $2)`

// listSignatures gives the signatures on a user's keys that asker may see: the
// user's own and asker's, by device ID or public key.
func listSignatures(q store.Querier, userID, asker string) (map[string][]signature, error) {
	rows, err := q.Query(listSignaturesSQL, userID, asker)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string][]signature{}
	for rows.Next() {
		s := signature{userID: userID}
		if err := rows.Scan(&s.target, &s.signer, &s.keyID, &s.sig); err != nil {
			return nil, err
		}
		out[s.target] = append(out[s.target], s)
	}
	return out, rows.Err()
}

// The list stream.

const upsertListChangeSQL = `INSERT INTO e2ee_list_changes (user_id, pos) VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET pos = excluded.pos`

func upsertListChange(tx *store.Tx, userID string, pos int64) error {
	_, err := tx.Exec(upsertListChangeSQL, userID, pos)
	return err
}

const upsertSignedUserSQL = `INSERT INTO e2ee_signed_users (signer, user_id, pos) VALUES ($1, $2, $3) ON CONFLICT (signer, user_id) DO UPDATE SET pos = excluded.pos`

func upsertSignedUser(tx *store.Tx, signer, userID string, pos int64) error {
	_, err := tx.Exec(upsertSignedUserSQL, signer, userID, pos)
	return err
}

const listChangedSQL = `SELECT user_id FROM e2ee_list_changes WHERE pos > $2 AND pos <= $3
	UNION SELECT user_id FROM e2ee_signed_users WHERE signer = $1 AND pos > $2 AND pos <= $3`

// listChanged lists whose keys changed, and whose were signed by viewer.
func listChanged(q store.Querier, viewer string, from, to int64) ([]string, error) {
	return listStrings(q, nil, listChangedSQL, viewer, from, to)
}

const (
	lastSharingSQL   = `SELECT joined FROM e2ee_sharing WHERE user_id = $1 AND room_id = $2 ORDER BY pos DESC LIMIT 1`
	insertSharingSQL = `INSERT INTO e2ee_sharing (user_id, room_id, pos, joined) VALUES ($1, $2, $3, $4)`
)

// insertSharing adds a row if it says something new.
func insertSharing(tx *store.Tx, roomID, userID string, joined bool, pos int64) error {
	var was bool
	err := tx.QueryRow(lastSharingSQL, userID, roomID).Scan(&was)
	if err != nil && err != store.ErrNotFound || was == joined {
		if err == store.ErrNotFound {
			err = nil
		}
		return err
	}
	_, err = tx.Exec(insertSharingSQL, userID, roomID, pos, joined)
	return err
}

const listOwnSharingSQL = `SELECT DISTINCT room_id FROM e2ee_sharing WHERE user_id = $1 AND pos > $2 AND pos <= $3`

// listOwnSharing gives the rooms that the user joined or left.
func listOwnSharing(q store.Querier, userID string, from, to int64) (map[string]bool, error) {
	list, err := listStrings(q, nil, listOwnSharingSQL, userID, from, to)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	out := map[string]bool{}
	for _, room := range list {
		out[room] = true
	}
	return out, nil
}

const listSharingSQL = `SELECT room_id, user_id FROM e2ee_sharing WHERE pos > $1 AND pos <= $2 AND user_id <> $3`

// listSharing gives, by room, who but userID joined or left.
func listSharing(q store.Querier, from, to int64, userID string) (map[string]map[string]bool, error) {
	rows, err := q.Query(listSharingSQL, from, to, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]map[string]bool{}
	for rows.Next() {
		var room, user string
		if err := rows.Scan(&room, &user); err != nil {
			return nil, err
		}
		if out[room] == nil {
			out[room] = map[string]bool{}
		}
		out[room][user] = true
	}
	return out, rows.Err()
}

// Key backups.

const insertBackupSQL = `INSERT INTO e2ee_backups (user_id, version, algorithm, auth_data)
	VALUES ($1, (SELECT coalesce(max(version), 0) + 1 FROM e2ee_backups WHERE user_id = $1), $2, $3) RETURNING version`

func insertBackup(tx *store.Tx, userID, algorithm string, authData []byte) (version int64, err error) {
	err = tx.QueryRow(insertBackupSQL, userID, algorithm, string(authData)).Scan(&version)
	return version, err
}

const (
	backupColumns        = `SELECT version, algorithm, auth_data, etag, count, deleted FROM e2ee_backups WHERE user_id = $1`
	loadBackupSQL        = backupColumns + ` AND version = $2`
	loadCurrentBackupSQL = backupColumns + ` AND deleted = 0 ORDER BY version DESC LIMIT 1`
)

func scanBackup(row *store.Row) (b backup, err error) {
	err = row.Scan(&b.version, &b.algorithm, &b.authData, &b.etag, &b.count, &b.deleted)
	return b, err
}

func loadBackup(q store.Querier, userID string, version int64) (backup, error) {
	return scanBackup(q.QueryRow(loadBackupSQL, userID, version))
}

func loadCurrentBackup(q store.Querier, userID string) (backup, error) {
	return scanBackup(q.QueryRow(loadCurrentBackupSQL, userID))
}

const updateBackupAuthSQL = `UPDATE e2ee_backups SET auth_data = $3 WHERE user_id = $1 AND version = $2`

func updateBackupAuth(tx *store.Tx, userID string, version int64, authData []byte) error {
	_, err := tx.Exec(updateBackupAuthSQL, userID, version, string(authData))
	return err
}

const updateBackupCountSQL = `UPDATE e2ee_backups SET etag = $3, count = $4 WHERE user_id = $1 AND version = $2`

func updateBackupCount(tx *store.Tx, userID string, version, etag, count int64) error {
	_, err := tx.Exec(updateBackupCountSQL, userID, version, etag, count)
	return err
}

const markBackupDeletedSQL = `UPDATE e2ee_backups SET deleted = 1, auth_data = '{}', count = 0 WHERE user_id = $1 AND version = $2`

func deleteBackup(tx *store.Tx, userID string, version int64) error {
	if _, err := tx.Exec(deleteBackupKeysSQL, userID, version); err != nil {
		return err
	}
	_, err := tx.Exec(markBackupDeletedSQL, userID, version)
	return err
}

const (
	backupKeyColumns  = `SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data FROM e2ee_backup_keys WHERE user_id = $1 AND version = $2`
	backupRoomColumns = backupKeyColumns + ` AND room_id = $3`
	loadSessionSQL    = backupRoomColumns + ` AND session_id = $4`
)

// listSessions lists a backup's keys; room and session "" mean all.
func listSessions(q store.Querier, userID string, version int64, room, session string) (out []namedSession, err error) {
	sql, args := backupKeyColumns, []any{userID, version}
	if room != "" {
		sql, args = backupRoomColumns, append(args, room)
	}
	if session != "" {
		sql, args = loadSessionSQL, append(args, session)
	}
	rows, err := q.Query(sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n namedSession
		var data []byte
		if err := rows.Scan(&n.room, &n.id, &n.FirstMessageIndex, &n.ForwardedCount, &n.IsVerified, &data); err != nil {
			return nil, err
		}
		n.SessionData = data
		out = append(out, n)
	}
	return out, rows.Err()
}

// loadSession gives one key. Errors: store.ErrNotFound.
func loadSession(q store.Querier, userID string, version int64, room, session string) (backedSession, error) {
	list, err := listSessions(q, userID, version, room, session)
	if err == nil && len(list) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return backedSession{}, err
	}
	return list[0].backedSession, nil
}

const upsertSessionSQL = `INSERT INTO e2ee_backup_keys (user_id, version, room_id, session_id, first_message_index, forwarded_count, is_verified, session_data)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
	ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET first_message_index = excluded.first_message_index,
		forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified, session_data = excluded.session_data`

func upsertSession(tx *store.Tx, userID string, version int64, n namedSession) error {
	_, err := tx.Exec(upsertSessionSQL, userID, version, n.room, n.id, *n.FirstMessageIndex, *n.ForwardedCount, *n.IsVerified, string(n.SessionData))
	return err
}

// deleteSessions removes a backup's keys; room and session "" mean all. It
// returns how many there were.
func deleteSessions(tx *store.Tx, userID string, version int64, room, session string) (int64, error) {
	switch {
	case session != "":
		return tx.Exec(deleteBackupSessionSQL, userID, version, room, session)
	case room != "":
		return tx.Exec(deleteBackupRoomSQL, userID, version, room)
	}
	return tx.Exec(deleteBackupKeysSQL, userID, version)
}

// Dehydrated devices.

const loadDehydratedSQL = `SELECT device_id, device_data FROM e2ee_dehydrated WHERE user_id = $1`

func loadDehydrated(q store.Querier, userID string) (deviceID string, data []byte, err error) {
	err = q.QueryRow(loadDehydratedSQL, userID).Scan(&deviceID, &data)
	return deviceID, data, err
}

const upsertDehydratedSQL = `INSERT INTO e2ee_dehydrated (user_id, device_id, device_data) VALUES ($1, $2, $3)
	ON CONFLICT (user_id) DO UPDATE SET device_id = excluded.device_id, device_data = excluded.device_data`

func upsertDehydrated(tx *store.Tx, userID, deviceID string, data []byte) error {
	_, err := tx.Exec(upsertDehydratedSQL, userID, deviceID, string(data))
	return err
}

// Closed accounts.

var deleteUserSQL = []string{
	`DELETE FROM e2ee_cross_signing_keys WHERE user_id = $1`,
	`DELETE FROM e2ee_signatures WHERE user_id = $1 OR signer = $1`,
	`DELETE FROM e2ee_signed_users WHERE signer = $1 OR user_id = $1`,
	`DELETE FROM e2ee_backup_keys WHERE user_id = $1`,
	`DELETE FROM e2ee_backups WHERE user_id = $1`,
	`DELETE FROM e2ee_dehydrated WHERE user_id = $1`,
}

func deleteUser(tx *store.Tx, userID string) error {
	for _, sql := range deleteUserSQL {
		if _, err := tx.Exec(sql, userID); err != nil {
			return err
		}
	}
	return nil
}
