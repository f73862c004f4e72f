package pusher

import (
	"encoding/json"

	"holdfast/store"
)

// record is a pusher as it is stored.
type record struct {
	id                                 int64
	userID, deviceID, appID, pushkey   string
	appName, deviceName, tag, lang, at string // at: the URL
	data                               json.RawMessage
	enabled                            bool
	setTS                              int64
	progress
}

// progress is how far a pusher has come.
type progress struct {
	pos      int64
	badge    int
	failures int
	retryTS  int64
}

const columns = `id, user_id, device_id, app_id, pushkey, app_name, device_name, profile_tag, lang, url, data, enabled, set_ts, pos, badge, failures, retry_ts FROM pushers`

func list(q store.Querier, query string, args ...any) (out []record, err error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r record
		var data string
		if err := rows.Scan(&r.id, &r.userID, &r.deviceID, &r.appID, &r.pushkey, &r.appName, &r.deviceName, &r.tag, &r.lang, &r.at, &data,
			&r.enabled, &r.setTS, &r.pos, &r.badge, &r.failures, &r.retryTS); err != nil {
			return nil, err
		}
		r.data = json.RawMessage(data)
		out = append(out, r)
	}
	return out, rows.Err()
}

func listAll(q store.Querier) ([]record, error) { return list(q, `SELECT `+columns) }

func listOf(q store.Querier, userID string) ([]record, error) {
	return list(q, `SELECT `+columns+` WHERE user_id = $1 ORDER BY id`, userID)
}

const upsertPusher = `INSERT INTO pushers (user_id, device_id, app_id, pushkey, app_name, device_name, profile_tag, lang, url, data, enabled, set_ts, pos, badge, failures, retry_ts)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, -1, 0, 0)
	ON CONFLICT (app_id, pushkey, user_id) DO UPDATE SET device_id = excluded.device_id, app_name = excluded.app_name, device_name = excluded.device_name,
	profile_tag = excluded.profile_tag, lang = excluded.lang, url = excluded.url, data = excluded.data, enabled = excluded.enabled, set_ts = excluded.set_ts,
	pos = CASE WHEN pushers.enabled = 1 THEN pushers.pos ELSE excluded.pos END, failures = 0, retry_ts = 0`

func upsert(tx *store.Tx, r record) error {
	_, err := tx.Exec(upsertPusher, r.userID, r.deviceID, r.appID, r.pushkey, r.appName, r.deviceName, r.tag, r.lang, r.at, string(r.data), r.enabled, r.setTS, r.pos)
	return err
}

func countOf(q store.Querier, userID, appID, pushkey string) (others int, err error) {
	err = q.QueryRow(`SELECT count(*) FROM pushers WHERE user_id = $1 AND NOT (app_id = $2 AND pushkey = $3)`, userID, appID, pushkey).Scan(&others)
	return others, err
}

// remove deletes pushers and returns whose they were.
func remove(tx *store.Tx, where string, args ...any) (users []string, err error) {
	rows, err := tx.Query(`DELETE FROM pushers WHERE `+where+` RETURNING user_id`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var u string
		if err := rows.Scan(&u); err != nil {
			return nil, err
		}
		users = append(users, u)
	}
	return users, rows.Err()
}

func saveProgress(tx *store.Tx, id int64, p progress) error {
	_, err := tx.Exec(`UPDATE pushers SET pos = $2, badge = $3, failures = $4, retry_ts = $5 WHERE id = $1`, id, p.pos, p.badge, p.failures, p.retryTS)
	return err
}
