package grouprooms

import (
	"database/sql"
	"errors"
	"time"

	"holdfast/store"
)

const ruleColumns = `SELECT group_id, room_id, level, take_out, rooms, created FROM group_rooms `

func scanRule(scan func(...any) error) (r Rule, err error) {
	var created int64
	err = scan(&r.GroupID, &r.RoomID, &r.Level, &r.TakeOut, &r.Rooms, &created)
	r.Created = time.UnixMilli(created)
	return r, err
}

func loadRules(q store.Querier) (out []Rule, err error) {
	rows, err := q.Query(ruleColumns + `ORDER BY group_id, room_id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanRule(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

const selectRule = ruleColumns + `WHERE group_id = $1 AND room_id = $2`

// loadRule finds a rule. Errors: ErrNoRule.
func loadRule(q store.Querier, groupID, roomID string) (Rule, error) {
	r, err := scanRule(q.QueryRow(selectRule, groupID, roomID).Scan)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNoRule
	}
	return r, err
}

const upsertRuleSQL = `INSERT INTO group_rooms (group_id, room_id, level, take_out, rooms, created) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (group_id, room_id) DO UPDATE SET level = excluded.level, take_out = excluded.take_out, rooms = excluded.rooms`

func upsertRule(tx *store.Tx, r Rule) error {
	_, err := tx.Exec(upsertRuleSQL, r.GroupID, r.RoomID, r.Level, int(r.TakeOut), r.Rooms, r.Created.UnixMilli())
	return err
}

func deleteRule(tx *store.Tx, r Rule) error {
	_, err := tx.Exec(`DELETE FROM group_rooms WHERE group_id = $1 AND room_id = $2`, r.GroupID, r.RoomID)
	return err
}

// States of a person.
const (
	waiting = iota
	in
	left
)

// person is what became of somebody in a room.
type person struct {
	state        int
	placed       bool
	takeOut      TakeOut
	level, given int64
	back         *int64
	trouble      string
}

const selectPeople = `SELECT user_id, state, placed, take_out, level, given, back, trouble FROM group_room_people WHERE room_id = $1`

func loadPeople(q store.Querier, roomID string) (map[string]person, error) {
	rows, err := q.Query(selectPeople, roomID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]person{}
	for rows.Next() {
		var (
			u    string
			p    person
			back sql.NullInt64
		)
		if err := rows.Scan(&u, &p.state, &p.placed, &p.takeOut, &p.level, &p.given, &back, &p.trouble); err != nil {
			return nil, err
		}
		if back.Valid {
			p.back = &back.Int64
		}
		out[u] = p
	}
	return out, rows.Err()
}

const upsertPersonSQL = `INSERT INTO group_room_people (room_id, user_id, state, placed, take_out, level, given, back, trouble)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (room_id, user_id) DO UPDATE SET state = excluded.state, placed = excluded.placed,
	take_out = excluded.take_out, level = excluded.level, given = excluded.given, back = excluded.back, trouble = excluded.trouble`

func upsertPerson(tx *store.Tx, roomID, userID string, p person) error {
	var back any
	if p.back != nil {
		back = *p.back
	}
	_, err := tx.Exec(upsertPersonSQL, roomID, userID, p.state, p.placed, int(p.takeOut), p.level, p.given, back, p.trouble)
	return err
}

func deletePerson(tx *store.Tx, roomID, userID string) error {
	_, err := tx.Exec(`DELETE FROM group_room_people WHERE room_id = $1 AND user_id = $2`, roomID, userID)
	return err
}

const deletePeopleSQL = `DELETE FROM group_room_people WHERE room_id = $1 AND user_id IN
	(SELECT user_id FROM group_room_people WHERE room_id = $1 LIMIT $2)`

func deletePeople(tx *store.Tx, roomID string, limit int) (int64, error) {
	return tx.Exec(deletePeopleSQL, roomID, limit)
}

const (
	staySQL = `UPDATE group_room_people SET take_out = 0 WHERE room_id = $1`
	outSQL  = `UPDATE group_room_people SET take_out = max(take_out, 1) WHERE room_id = $1`
)

// setTakeOut says what becomes of a room's people whom no rule keeps in it.
func setTakeOut(tx *store.Tx, roomID string, out bool) error {
	query := staySQL
	if out {
		query = outSQL
	}
	_, err := tx.Exec(query, roomID)
	return err
}

const waitAgainSQL = `UPDATE group_room_people SET state = 0 WHERE room_id = $1 AND user_id = $2`

// waitAgain has somebody put in again who left.
func waitAgain(tx *store.Tx, roomID, userID string) error {
	_, err := tx.Exec(waitAgainSQL, roomID, userID)
	return err
}

const (
	carrySQL = `INSERT INTO group_room_people (room_id, user_id, state, placed, take_out, level, given, back, trouble)
		SELECT $2, user_id, CASE state WHEN 1 THEN 0 ELSE state END, placed, take_out, level, given, back, trouble
		FROM group_room_people WHERE room_id = $1 ON CONFLICT DO NOTHING`
	forgetSQL = `DELETE FROM group_room_people WHERE room_id = $1`
)

// carry has a room's people be put into the one that replaces it, whose power levels are
// those of the old one.
func carry(tx *store.Tx, from, to string) error {
	if _, err := tx.Exec(carrySQL, from, to); err != nil {
		return err
	}
	_, err := tx.Exec(forgetSQL, from)
	return err
}

// peopledRooms are the rooms in which rules did something.
func peopledRooms(q store.Querier) (out []string, err error) {
	rows, err := q.Query(`SELECT DISTINCT room_id FROM group_room_people`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}
