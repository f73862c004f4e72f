package bulk

import "holdfast/store"

// link says which account somebody in a list has.
type link struct {
	subject, user, name, full string
	locked                    bool // because the list says so
}

const selectPeople = `SELECT subject, user_id, name, full_name, locked FROM id_list_people WHERE list = $1 ORDER BY subject`

func load(q store.Querier, list string) (out []link, err error) {
	rows, err := q.Query(selectPeople, list)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var x link
		if err := rows.Scan(&x.subject, &x.user, &x.name, &x.full, &x.locked); err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, rows.Err()
}

const selectLists = `SELECT user_id, list FROM id_list_people`

// lists says of each account by which list it came, if by one.
func lists(q store.Querier) (map[string]string, error) {
	rows, err := q.Query(selectLists)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var user, list string
		if err := rows.Scan(&user, &list); err != nil {
			return nil, err
		}
		out[user] = "the list " + list
	}
	return out, rows.Err()
}

const insertPerson = `INSERT INTO id_list_people (list, subject, user_id, name, full_name, locked) VALUES ($1, $2, $3, $4, $5, 0)
ON CONFLICT (user_id) DO UPDATE SET subject = excluded.subject, name = excluded.name`

// insert gives somebody in a list an account; one who has it gets the subject.
func insert(tx *store.Tx, list string, x link) error {
	_, err := tx.Exec(insertPerson, list, x.subject, x.user, x.name, x.full)
	return err
}

const updateFull = `UPDATE id_list_people SET full_name = $3 WHERE list = $1 AND subject = $2`

func setFull(tx *store.Tx, list, subject, full string) error {
	_, err := tx.Exec(updateFull, list, subject, full)
	return err
}

const updateLocked = `UPDATE id_list_people SET locked = $3 WHERE list = $1 AND subject = $2`

func setLocked(tx *store.Tx, list, subject string, locked bool) error {
	_, err := tx.Exec(updateLocked, list, subject, locked)
	return err
}
