package pusher

import (
	"context"
	"encoding/json"

	"holdfast/store"
	"holdfast/store/sealed"
)

// What pushers are sealed for. Who has a pushkey, with the gateway's URL and the data, may
// send the device notifications.
const (
	keyPurpose  = "pushkey"
	urlPurpose  = "push gateway"
	dataPurpose = "pusher"
	linkPurpose = "link that ends mails"
)

// storedKey is a pushkey as the database has it.
func (s *Service) storedKey(pushkey string) string { return s.o.Secrets.Token(keyPurpose, pushkey) }

// sealRows seals what an earlier version kept in clear.
func (s *Service) sealRows(ctx context.Context) error {
	err := sealed.Once(ctx, s.o.DB, "pushers", func(tx *store.Tx) (bool, error) {
		return sealed.Rewrite(tx, "pushers", "id", func(row map[string]any) error {
			row["pushkey"] = s.storedKey(row["pushkey"].(string))
			row["url"] = s.o.Secrets.Token(urlPurpose, row["url"].(string))
			row["data"] = s.o.Secrets.Seal(dataPurpose, row["data"].(string))
			return nil
		})
	})
	if err != nil {
		return err
	}
	return sealed.Once(ctx, s.o.DB, "pusher_mails", func(tx *store.Tx) (bool, error) {
		return sealed.Rewrite(tx, "pusher_mails", "pusher_id", func(row map[string]any) error {
			row["secret"] = s.o.Secrets.Token(linkPurpose, row["secret"].(string))
			return nil
		})
	})
}

// record is a pusher as it is kept.
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

func (s *Service) list(q store.Querier, query string, args ...any) (out []record, err error) {
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
		for what, v := range map[string]*string{keyPurpose: &r.pushkey, urlPurpose: &r.at, dataPurpose: &data} {
			if *v, err = s.o.Secrets.Open(what, *v); err != nil {
				return nil, err
			}
		}
		r.data = json.RawMessage(data)
		out = append(out, r)
	}
	return out, rows.Err()
}

func (s *Service) listAll(q store.Querier) ([]record, error) { return s.list(q, `SELECT `+columns) }

func (s *Service) listOf(q store.Querier, userID string) ([]record, error) {
	return s.list(q, `SELECT `+columns+` WHERE user_id = $1 ORDER BY id`, userID)
}

const upsertPusher = `INSERT INTO pushers (user_id, device_id, app_id, pushkey, app_name, device_name, profile_tag, lang, url, data, enabled, set_ts, pos, badge, failures, retry_ts)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, -1, 0, 0)
	ON CONFLICT (app_id, pushkey, user_id) DO UPDATE SET device_id = excluded.device_id, app_name = excluded.app_name, device_name = excluded.device_name,
	profile_tag = excluded.profile_tag, lang = excluded.lang, url = excluded.url, data = excluded.data, enabled = excluded.enabled, set_ts = excluded.set_ts,
	pos = CASE WHEN pushers.enabled = 1 THEN pushers.pos ELSE excluded.pos END, failures = 0, retry_ts = 0`

func (s *Service) upsert(tx *store.Tx, r record) error {
	if !r.isMail() {
		return s.upsertRow(tx, r)
	}
	if err := s.upsertRow(tx, r); err != nil {
		return err
	}
	_, err := tx.Exec(`INSERT INTO pusher_mails (pusher_id, secret, sent_ts, in_row) SELECT id, $4, 0, 0 FROM pushers WHERE app_id = $1 AND pushkey = $2 AND user_id = $3
		ON CONFLICT (pusher_id) DO NOTHING`, r.appID, s.storedKey(r.pushkey), r.userID, s.o.Secrets.Token(linkPurpose, newSecret()))
	return err
}

func (s *Service) upsertRow(tx *store.Tx, r record) error {
	_, err := tx.Exec(upsertPusher, r.userID, r.deviceID, r.appID, s.storedKey(r.pushkey), r.appName, r.deviceName, r.tag, r.lang,
		s.o.Secrets.Token(urlPurpose, r.at), s.o.Secrets.Seal(dataPurpose, string(r.data)), r.enabled, r.setTS, r.pos)
	return err
}

func (s *Service) countOf(q store.Querier, userID, appID, pushkey string) (others int, err error) {
	err = q.QueryRow(`SELECT count(*) FROM pushers WHERE user_id = $1 AND NOT (app_id = $2 AND pushkey = $3)`, userID, appID, s.storedKey(pushkey)).Scan(&others)
	return others, err
}

// remove deletes pushers and returns whose they were.
func (s *Service) remove(tx *store.Tx, where string, args ...any) (users []string, err error) {
	rows, err := tx.Query(`DELETE FROM pushers WHERE `+where+` RETURNING user_id, url`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	mail := false
	for rows.Next() {
		var r record
		if err := rows.Scan(&r.userID, &r.at); err != nil {
			return nil, err
		}
		if r.at, err = s.o.Secrets.Open(urlPurpose, r.at); err != nil {
			return nil, err
		}
		users = append(users, r.userID)
		mail = mail || r.isMail()
	}
	if err := rows.Err(); err != nil || !mail {
		return users, err
	}
	_, err = tx.Exec(`DELETE FROM pusher_mails WHERE pusher_id NOT IN (SELECT id FROM pushers)`)
	return users, err
}

// mailState is what is known of a pusher by e-mail.
type mailState struct {
	address, secret string
	sentTS          int64
	row             int // messages since the user read anything
}

const loadMailSQL = `SELECT p.pushkey, m.secret, m.sent_ts, m.in_row FROM pusher_mails m JOIN pushers p ON p.id = m.pusher_id WHERE m.pusher_id = $1`

func (s *Service) loadMail(q store.Querier, id int64) (m mailState, err error) {
	if err = q.QueryRow(loadMailSQL, id).Scan(&m.address, &m.secret, &m.sentTS, &m.row); err != nil {
		return m, err
	}
	if m.address, err = s.o.Secrets.Open(keyPurpose, m.address); err != nil {
		return m, err
	}
	m.secret, err = s.o.Secrets.Open(linkPurpose, m.secret)
	return m, err
}

func updateMail(tx *store.Tx, id, sentTS int64, row int) error {
	_, err := tx.Exec(`UPDATE pusher_mails SET sent_ts = $2, in_row = $3 WHERE pusher_id = $1`, id, sentTS, row)
	return err
}

// restMail notes that the user read something.
func restMail(tx *store.Tx, id int64) error {
	_, err := tx.Exec(`UPDATE pusher_mails SET in_row = 0 WHERE pusher_id = $1`, id)
	return err
}

func saveProgress(tx *store.Tx, id int64, p progress) error {
	_, err := tx.Exec(`UPDATE pushers SET pos = $2, badge = $3, failures = $4, retry_ts = $5 WHERE id = $1`, id, p.pos, p.badge, p.failures, p.retryTS)
	return err
}
