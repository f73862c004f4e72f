package reports

import (
	"database/sql"
	"fmt"
	"strings"

	"holdfast/store"
)

const insertReport = `INSERT INTO reports (id, kind, room_id, event_id, user_id, reporter, reason, score, ts)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

func insert(tx *store.Tx, r Report) error {
	var score any
	if r.Score != nil {
		score = *r.Score
	}
	_, err := tx.Exec(insertReport, tx.NextPos(), string(r.Kind), r.RoomID, r.EventID, r.UserID, r.Reporter, r.Reason, score, r.Received)
	return err
}

const selectReports = `SELECT id, kind, room_id, event_id, user_id, reporter, reason, score, ts FROM reports`

func scan(row interface{ Scan(...any) error }) (r Report, err error) {
	var score sql.NullInt64
	err = row.Scan(&r.ID, &r.Kind, &r.RoomID, &r.EventID, &r.UserID, &r.Reporter, &r.Reason, &score, &r.Received)
	if score.Valid {
		r.Score = &score.Int64
	}
	return r, err
}

// Get is one report. Errors: store.ErrNotFound.
func Get(q store.Querier, id int64) (Report, error) {
	return scan(q.QueryRow(selectReports+` WHERE id = $1`, id))
}

// List gives the reports that a filter picks, the newest first unless OldestFirst,
// and how many it picks in all, those before From and after Limit too.
func List(q store.Querier, f Filter) (list []Report, total int, err error) {
	var where []string
	var args []any
	for column, value := range map[string]string{"kind": string(f.Kind), "room_id": f.RoomID, "user_id": f.UserID, "reporter": f.Reporter} {
		if value != "" {
			args = append(args, value)
			where = append(where, fmt.Sprintf("%s = $%d", column, len(args)))
		}
	}
	cond := ""
	if len(where) > 0 {
		cond = " WHERE " + strings.Join(where, " AND ")
	}
	if err := q.QueryRow(`SELECT count(*) FROM reports`+cond, args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	order := " DESC"
	if f.OldestFirst {
		order = ""
	}
	rows, err := q.Query(fmt.Sprintf("%s%s ORDER BY id%s LIMIT $%d OFFSET $%d", selectReports, cond, order, len(args)+1, len(args)+2),
		append(args, f.Limit, f.From)...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, r)
	}
	return list, total, rows.Err()
}

// Delete removes a report. Errors: store.ErrNotFound.
func Delete(tx *store.Tx, id int64) error {
	n, err := tx.Exec(`DELETE FROM reports WHERE id = $1`, id)
	if err == nil && n == 0 {
		err = store.ErrNotFound
	}
	return err
}
