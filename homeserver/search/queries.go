package search

import (
	"encoding/json"
	"fmt"
	"strings"

	"holdfast/store"
)

var index = store.FullText{Index: "search_index"}

// row is a text to be found: what the event at pos says of the one at event.
type row struct {
	pos, event, room  int64
	key, sender, text string
}

// insertText puts in as many rows as there are groups of arguments.
func insertText(n int) string {
	var b strings.Builder
	b.WriteString(`INSERT INTO search_texts (pos, event, room, key, sender, text) VALUES `)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(store.In(6*i+1, 6))
	}
	return b.String()
}

const rowsAtOnce = 32

var insertTexts, insertOne = insertText(rowsAtOnce), insertText(1)

// insert puts texts in, of positions that follow each other and between which there
// are none yet.
func insert(tx *store.Tx, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	for rest := rows; len(rest) > 0; {
		n, query := rowsAtOnce, insertTexts
		if len(rest) < n {
			n, query = 1, insertOne
		}
		args := make([]any, 0, 6*n)
		for _, r := range rest[:n] {
			args = append(args, r.pos, r.event, r.room, r.key, r.sender, r.text)
		}
		if _, err := tx.Exec(query, args...); err != nil {
			return err
		}
		rest = rest[n:]
	}
	first, last := rows[0].pos, rows[len(rows)-1].pos
	return index.AddFrom(tx, `SELECT pos, text FROM search_texts WHERE pos BETWEEN $1 AND $2`, min(first, last), max(first, last))
}

// remove takes out what a statement selects: pos and text.
func remove(tx *store.Tx, query string, args ...any) error {
	rows, err := tx.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var list []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.pos, &r.text); err != nil {
			return err
		}
		list = append(list, r)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	for _, r := range list {
		if err := index.Remove(tx, r.pos, r.text); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM search_texts WHERE pos = $1`, r.pos); err != nil {
			return err
		}
	}
	return nil
}

// removeEvent takes out an event's text, and with it those of its edits.
func removeEvent(tx *store.Tx, pos int64) error {
	return remove(tx, `SELECT pos, text FROM search_texts WHERE pos = $1
		UNION ALL SELECT pos, text FROM search_texts WHERE event = $1 AND event <> pos`, pos)
}

func loadProgress(q store.Querier) (low, high int64, err error) {
	err = q.QueryRow(`SELECT low, high FROM search_progress WHERE id = 1`).Scan(&low, &high)
	return low, high, err
}

func storeProgress(tx *store.Tx, low, high int64) error {
	_, err := tx.Exec(`UPDATE search_progress SET low = $1, high = $2 WHERE id = 1`, low, high)
	return err
}

// hit is a text that matches.
type hit struct {
	pos, event, room int64
	key, sender      string
	rank             float64
	edited           bool // other texts of the same event are there
}

var typeOf = map[string]string{"body": "m.room.message", "name": "m.room.name", "topic": "m.room.topic"}

// find gives the texts that match in rooms, of events up to a position, at most limit.
func find(q store.Querier, match string, rooms []int64, keys []string, upTo int64, recent bool, limit int) ([]hit, error) {
	order := `6 DESC, s.event DESC`
	if recent {
		order = `s.event DESC`
	}
	in, err := json.Marshal(rooms)
	if err != nil {
		return nil, err
	}
	query := `SELECT s.pos, s.event, s.room, s.key, s.sender, ` + index.Rank() + `,
			EXISTS (SELECT 1 FROM search_texts x WHERE x.event = s.event AND x.event <> x.pos)` + index.From("search_texts s", "s.pos") + `WHERE ` + index.Matches("$1") + ` AND s.room IN ` + store.InJSON("$2") + ` AND s.event <= $3 AND s.key IN ` + store.In(5, len(keys)) + `
		ORDER BY ` + order + ` LIMIT $4`
	rows, err := q.Query(query, store.Args([]any{match, string(in), upTo, limit}, keys)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []hit
	for rows.Next() {
		var h hit
		if err := rows.Scan(&h.pos, &h.event, &h.room, &h.key, &h.sender, &h.rank, &h.edited); err != nil {
			return nil, err
		}
		list = append(list, h)
	}
	return list, rows.Err()
}

// marks gives the words by which texts match.
func marks(q store.Querier, match string, at []int64) (words []string, err error) {
	for _, pos := range at {
		var text string
		err := q.QueryRow(fmt.Sprintf(`SELECT %s FROM search_index WHERE %s AND rowid = $2`, index.Marked(), index.Matches("$1")), match, pos).Scan(&text)
		if err == store.ErrNotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		words = append(words, store.Marks(text)...)
	}
	return words, nil
}
