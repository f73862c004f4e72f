package schema_test

import (
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"holdfast/store/schema"
)

var update = flag.Bool("update", false, "rewrite schema.sql")

var owned = regexp.MustCompile(`(?m)^-- owner: (\S+)\s*\n(?:--.*\n)*CREATE (?:VIRTUAL )?TABLE (\w+)`)

// TestGolden compares what the migrations make with schema.sql, the data model on
// one page, and sees that every table names its owner.
func TestGolden(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	steps, err := schema.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	owner := map[string]string{}
	for _, s := range steps {
		if _, err := db.Exec(s.SQL); err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		for _, m := range owned.FindAllStringSubmatch(s.SQL, -1) {
			owner[m[2]] = m[1]
		}
	}
	rows, err := db.Query(`SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL
		ORDER BY tbl_name, type = 'index', name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out strings.Builder
	out.WriteString("-- What the migrations make: the whole data model. Generated; `go test ./store/schema -update` writes it anew.\n")
	for rows.Next() {
		var kind, name, table, text string
		if err := rows.Scan(&kind, &name, &table, &text); err != nil {
			t.Fatal(err)
		}
		if kind == "table" {
			switch o, ok := owner[name]; {
			case ok:
				fmt.Fprintf(&out, "\n-- owner: %s\n", o)
			case strings.HasPrefix(text, "CREATE TABLE '"): // shadow table of a full-text index
				continue
			default:
				t.Errorf("table %s: no `-- owner: <package>` stands right above its CREATE TABLE", name)
			}
		}
		out.WriteString(text + ";\n")
	}
	if *update {
		if err := os.WriteFile("schema.sql", []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, _ := os.ReadFile("schema.sql")
	if string(golden) != out.String() {
		t.Error("schema.sql differs from what the migrations make: run `go test ./store/schema -update` and read the difference")
	}
}
