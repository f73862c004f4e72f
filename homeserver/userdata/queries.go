package userdata

import (
	"encoding/json"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// Profiles.

const insertProfileSQL = `INSERT INTO user_profiles (user_id, displayname) VALUES ($1, $2)
	ON CONFLICT (user_id) DO UPDATE SET displayname = excluded.displayname, hidden = 0 WHERE hidden = 1`

// insertProfile leaves an existing profile as it is, unless its account was closed.
func insertProfile(tx *store.Tx, userID, displayName string) error {
	_, err := tx.Exec(insertProfileSQL, userID, displayName)
	return err
}

const loadProfileSQL = `SELECT displayname, avatar_url, fields FROM user_profiles WHERE user_id = $1 AND hidden = 0`

func loadProfile(q store.Querier, userID string) (p profile, err error) {
	p.userID = userID
	var fields []byte
	if err = q.QueryRow(loadProfileSQL, userID).Scan(&p.DisplayName, &p.AvatarURL, &fields); err != nil {
		return p, err
	}
	err = json.Unmarshal(fields, &p.fields)
	return p, err
}

const upsertProfileSQL = `INSERT INTO user_profiles (user_id, displayname, avatar_url, fields) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id) DO UPDATE SET displayname = excluded.displayname, avatar_url = excluded.avatar_url, fields = excluded.fields`

func upsertProfile(tx *store.Tx, p profile) error {
	fields, err := json.Marshal(p.fields)
	if err != nil {
		return err
	}
	_, err = tx.Exec(upsertProfileSQL, p.userID, p.DisplayName, p.AvatarURL, string(fields))
	return err
}

const listProfilesSQL = `SELECT user_id, displayname, avatar_url FROM user_profiles WHERE hidden = 0 ORDER BY user_id`

func eachProfile(q store.Querier, f func(userID, displayName, avatarURL string)) error {
	rows, err := q.Query(listProfilesSQL)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var u, n, a string
		if err := rows.Scan(&u, &n, &a); err != nil {
			return err
		}
		f(u, n, a)
	}
	return rows.Err()
}

const (
	hideProfileSQL       = `UPDATE user_profiles SET displayname = '', avatar_url = '', fields = '{}', hidden = 1 WHERE user_id = $1`
	deleteAccountDataSQL = `DELETE FROM user_account_data WHERE user_id = $1`
	deleteRulesSQL       = `DELETE FROM user_push_rules WHERE user_id = $1`
	deleteFiltersSQL     = `DELETE FROM user_filters WHERE user_id = $1`
)

func deleteUser(tx *store.Tx, userID string) error {
	for _, sql := range []string{hideProfileSQL, deleteAccountDataSQL, deleteRulesSQL, deleteFiltersSQL} {
		if _, err := tx.Exec(sql, userID); err != nil {
			return err
		}
	}
	return nil
}

// Account data.

const loadDataSQL = `SELECT content FROM user_account_data WHERE user_id = $1 AND room_id = $2 AND type = $3`

func loadData(q store.Querier, userID, roomID, typ string) (content mx.Raw, err error) {
	err = q.QueryRow(loadDataSQL, userID, roomID, typ).Scan((*[]byte)(&content))
	return content, err
}

const (
	updateDataSQL = `UPDATE user_account_data SET content = $4, pos = $5 WHERE user_id = $1 AND room_id = $2 AND type = $3`
	insertDataSQL = `INSERT INTO user_account_data (user_id, room_id, type, content, pos) VALUES ($1, $2, $3, $4, $5)`
)

// upsertData reports whether there was no such data before.
func upsertData(tx *store.Tx, userID, roomID, typ string, content []byte, pos int64) (fresh bool, err error) {
	n, err := tx.Exec(updateDataSQL, userID, roomID, typ, string(content), pos)
	if err != nil || n > 0 {
		return false, err
	}
	_, err = tx.Exec(insertDataSQL, userID, roomID, typ, string(content), pos)
	return true, err
}

const countDataSQL = `SELECT count(*) FROM user_account_data WHERE user_id = $1`

func countData(q store.Querier, userID string) (n int, err error) {
	err = q.QueryRow(countDataSQL, userID).Scan(&n)
	return n, err
}

const listDataSQL = `SELECT room_id, type, content FROM user_account_data WHERE user_id = $1 AND pos > $2 AND pos <= $3`

func listData(q store.Querier, userID string, from, to int64) (global []Data, rooms map[string][]Data, err error) {
	rows, err := q.Query(listDataSQL, userID, from, to)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var room, typ string
		var content []byte
		if err := rows.Scan(&room, &typ, &content); err != nil {
			return nil, nil, err
		}
		if d := (Data{typ, content}); room == "" {
			global = append(global, d)
		} else {
			if rooms == nil {
				rooms = map[string][]Data{}
			}
			rooms[room] = append(rooms[room], d)
		}
	}
	return global, rooms, rows.Err()
}

// Push rules.

const loadRulesSQL = `SELECT changes FROM user_push_rules WHERE user_id = $1`

func loadRules(q store.Querier, userID string) (changes []byte, err error) {
	err = q.QueryRow(loadRulesSQL, userID).Scan(&changes)
	return changes, err
}

const loadRulesPosSQL = `SELECT pos FROM user_push_rules WHERE user_id = $1`

func loadRulesPos(q store.Querier, userID string) (pos int64, err error) {
	err = q.QueryRow(loadRulesPosSQL, userID).Scan(&pos)
	return pos, err
}

const upsertRulesSQL = `INSERT INTO user_push_rules (user_id, changes, pos) VALUES ($1, $2, $3)
	ON CONFLICT (user_id) DO UPDATE SET changes = excluded.changes, pos = excluded.pos`

func upsertRules(tx *store.Tx, userID string, changes []byte, pos int64) error {
	_, err := tx.Exec(upsertRulesSQL, userID, string(changes), pos)
	return err
}

// Filters.

const loadFilterSQL = `SELECT filter FROM user_filters WHERE user_id = $1 AND filter_id = $2`

func loadFilter(q store.Querier, userID, filterID string) (filter mx.Raw, err error) {
	err = q.QueryRow(loadFilterSQL, userID, filterID).Scan((*[]byte)(&filter))
	return filter, err
}

const countFiltersSQL = `SELECT count(*) FROM user_filters WHERE user_id = $1`

func countFilters(q store.Querier, userID string) (n int, err error) {
	err = q.QueryRow(countFiltersSQL, userID).Scan(&n)
	return n, err
}

const insertFilterSQL = `INSERT INTO user_filters (user_id, filter_id, filter) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`

func insertFilter(tx *store.Tx, userID, filterID string, filter []byte) error {
	_, err := tx.Exec(insertFilterSQL, userID, filterID, string(filter))
	return err
}

const holdingSQL = `SELECT avatar_url || ' ' || fields FROM user_profiles WHERE hidden = 0 AND (instr(avatar_url, $1) > 0 OR instr(fields, $1) > 0)
	UNION ALL SELECT content FROM user_account_data WHERE instr(content, $1) > 0`

// Holding gives f what stands in profiles and in account data, where a text is in it.
func (s *Service) Holding(q store.Querier, text string, f func(string)) error {
	rows, err := q.Query(holdingSQL, text)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var found string
		if err := rows.Scan(&found); err != nil {
			return err
		}
		f(found)
	}
	return rows.Err()
}

// deleteRoomSQL names the condition of the index, which has only data of rooms.
const deleteRoomSQL = `DELETE FROM user_account_data WHERE (user_id, room_id, type) IN
	(SELECT user_id, room_id, type FROM user_account_data WHERE room_id = $1 AND room_id <> '' LIMIT $2)`

func deleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	return tx.Exec(deleteRoomSQL, roomID, limit)
}
