package rooms

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/store"
)

// What is deleted is found by an index: these run again and again, in the writer.
func TestPurgeUsesIndexes(t *testing.T) {
	db, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "holdfast.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{selectPurge, deleteEvent, existsTarget, existsRedacted, selectLastPos, selectMembersAfter, selectMembers, insertDeparture, deleteMember,
		selectLeft, deleteSnapshot, deleteGroup, deleteStateRows, deleteDepartures, selectDepartures, selectDeparture, selectDepartureAt, selectSent} {
		err := db.Write(context.Background(), func(tx *store.Tx) error {
			args := make([]any, strings.Count(query, "$"))
			for i := range args {
				args[i] = 1
			}
			rows, err := tx.Query("EXPLAIN QUERY PLAN "+query, args[:params(query)]...)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id, parent, unused int
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					return err
				}
				if strings.HasPrefix(detail, "SCAN ") && detail != "SCAN CONSTANT ROW" || strings.Contains(detail, "TEMP B-TREE") {
					t.Errorf("%s: %s", detail, query)
				}
			}
			return rows.Err()
		})
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// params is the highest parameter of a statement.
func params(query string) int {
	n := 0
	for n < 9 && strings.Contains(query, "$"+string(rune('1'+n))) {
		n++
	}
	return n
}
