package tasks

import (
	"database/sql"

	"holdfast/store"
)

const columns = `SELECT id, action, resource, status, ts, params, cursor, result, error FROM tasks `

func scan(s interface{ Scan(...any) error }) (t Task, err error) {
	var params, cursor, result sql.NullString
	err = s.Scan(&t.ID, &t.Action, &t.Resource, &t.Status, &t.Changed, &params, &cursor, &result, &t.Error)
	t.Params = []byte(params.String)
	if cursor.Valid {
		t.Cursor = []byte(cursor.String)
	}
	if result.Valid {
		t.Result = []byte(result.String)
	}
	return t, err
}

const (
	loadSQL = columns + `WHERE id = $1`
	// openSQL names what is wanted as the index does.
	openSQL = columns + `WHERE status IN ('scheduled', 'active') ORDER BY seq`
	// The condition is one of index or another, by which parameters there are.
	listSQL         = columns + `WHERE ($1 = '' OR action = $1) AND ($2 = '' OR status = $2) AND ($3 = 0 OR ts < $3) ORDER BY seq DESC`
	listResourceSQL = columns + `WHERE resource = $4 AND ($1 = '' OR action = $1) AND ($2 = '' OR status = $2) AND ($3 = 0 OR ts < $3) ORDER BY seq DESC`
)

func load(q store.Querier, id string) (Task, error) { return scan(q.QueryRow(loadSQL, id)) }

func rows(r *sql.Rows, err error) (out []Task, _ error) {
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for r.Next() {
		t, err := scan(r)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, r.Err()
}

// listOpen lists the tasks that have not ended, oldest first.
func listOpen(q store.Querier) ([]Task, error) { return rows(q.Query(openSQL)) }

func list(q store.Querier, f Filter) ([]Task, error) {
	if f.Resource != "" {
		return rows(q.Query(listResourceSQL, f.Action, string(f.Status), f.Before, f.Resource))
	}
	return rows(q.Query(listSQL, f.Action, string(f.Status), f.Before))
}

const countOpenSQL = `SELECT count(*) FROM tasks WHERE status IN ('scheduled', 'active')`

func countOpen(q store.Querier) (n int, err error) {
	return n, q.QueryRow(countOpenSQL).Scan(&n)
}

const hasOpenSQL = `SELECT EXISTS (SELECT 1 FROM tasks WHERE resource = $1 AND action = $2 AND status IN ('scheduled', 'active'))`

func hasOpen(q store.Querier, action, resource string) (yes bool, err error) {
	return yes, q.QueryRow(hasOpenSQL, resource, action).Scan(&yes)
}

const insertSQL = `INSERT INTO tasks (seq, id, action, resource, status, ts, params) VALUES ($1, $2, $3, $4, $5, $6, $7)`

func insert(tx *store.Tx, seq int64, t Task) error {
	_, err := tx.Exec(insertSQL, seq, t.ID, t.Action, t.Resource, string(t.Status), t.Changed, string(t.Params))
	return err
}

const setStatusSQL = `UPDATE tasks SET status = $2, ts = $3, error = $4 WHERE id = $1`

func setStatus(tx *store.Tx, id string, status Status, now int64, failure string) error {
	_, err := tx.Exec(setStatusSQL, id, string(status), now, failure)
	return err
}

const saveProgressSQL = `UPDATE tasks SET cursor = $2, result = coalesce($3, result) WHERE id = $1`

func saveProgress(tx *store.Tx, id string, cursor, result []byte) error {
	var res any
	if result != nil {
		res = string(result)
	}
	_, err := tx.Exec(saveProgressSQL, id, string(cursor), res)
	return err
}

const (
	expireSQL = `DELETE FROM tasks WHERE ts < $1 AND status NOT IN ('scheduled', 'active')`
	trimSQL   = `DELETE FROM tasks WHERE status NOT IN ('scheduled', 'active') AND seq <=
		(SELECT seq FROM tasks WHERE status NOT IN ('scheduled', 'active') ORDER BY seq DESC LIMIT 1 OFFSET $1)`
)

// expire removes the records of tasks that ended before a time, and all but the newest
// of the rest.
func expire(tx *store.Tx, before int64, keep int) error {
	if _, err := tx.Exec(expireSQL, before); err != nil {
		return err
	}
	_, err := tx.Exec(trimSQL, keep)
	return err
}
