// Package schema holds the data model: the migrations, in order, and schema.sql,
// a golden dump of what they make, to be read on one page.
//
// Invariants: a migration that was released never changes; migrations only go
// forward; above each CREATE TABLE stands its one owner, `-- owner: <package>`.
package schema

import (
	"embed"
	"fmt"
	"io/fs"
)

//go:embed [0-9]*.sql
var files embed.FS

// Migration is one step of the schema.
type Migration struct {
	Name string // file name, "0001_store.sql"
	SQL  string
}

// Migrations lists the steps in the order they run.
func Migrations() ([]Migration, error) {
	names, err := fs.Glob(files, "*.sql") // sorted by name
	if err != nil {
		return nil, err
	}
	var out []Migration
	for i, n := range names {
		var num int
		if _, err := fmt.Sscanf(n, "%04d_", &num); err != nil || num != i+1 {
			return nil, fmt.Errorf("schema: %s should be number %04d", n, i+1)
		}
		b, err := files.ReadFile(n)
		if err != nil {
			return nil, err
		}
		out = append(out, Migration{n, string(b)})
	}
	return out, nil
}
