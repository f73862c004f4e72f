// Package house tests the rules of the house: who may import whom, that every
// package says what it is for, that every table has one owner, and that what is
// generated is up to date.
//
// Invariants: the rules are read from the code as it is, never from a list that
// has to be kept beside it, apart from the order of the homeserver's packages.
package house

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write generated files")

const root = "../.."

type pkg struct {
	ImportPath string
	Dir        string
	Name       string
	Imports    []string
	GoFiles    []string
}

// packages are all packages of the module, without their tests.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Name,Imports,GoFiles", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 10 {
		t.Fatalf("only %d packages found", len(list))
	}
	return list
}

// rel is an import path without the module, "" for other modules.
func rel(path string) string {
	r, ok := strings.CutPrefix(path, "holdfast/")
	if !ok {
		return ""
	}
	return r
}

func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// floors is the order of the homeserver's packages, from the top down: a package
// may import those on floors below its own.
var floors = [][]string{
	{""}, // homeserver.go
	{"admin"},
	{"syncv3", "sliding", "oldsync", "calls", "push", "media", "federation", "appservice", "search", "account", "delayed", "rendezvous"},
	{"feed", "threads"},
	{"timeline", "ephemeral", "todevice", "e2ee", "devices", "userdata", "reports", "notices", "grouprooms"},
	{"rooms"},
	{"pushrules"},
	{"stateres", "eventauth", "route", "notify", "tasks"},
	{"pdu"},
	{"mx"},
}

// testKits may be imported by tests only.
var testKits = []string{"homeserver/hstest", "homeserver/apitest", "appliance/appliancetest", "image/disk/disktest", "appliance/tpm/tpmtest", "identity/directory/directorytest"}

func floor(t *testing.T, p string) int {
	t.Helper()
	name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(p, "homeserver"), "/"), "/")
	for i, f := range floors {
		if slices.Contains(f, name) {
			return i
		}
	}
	t.Errorf("%s is not in the order of the homeserver's packages: add it to floors, and to docs/dev/README.md", p)
	return -1
}

func TestImports(t *testing.T) {
	peers := []string{"homeserver", "identity", "sfu", "web"}
	for _, p := range packages(t) {
		from := rel(p.ImportPath)
		if from == "" || under(from, "test") || slices.Contains(testKits, from) {
			continue
		}
		for _, imp := range p.Imports {
			to := rel(imp)
			bad := func(why string) { t.Errorf("%s imports %s: %s", from, imp, why) }
			if to == "" {
				// libc is what modernc.org/sqlite is called by.
				if under(from, "store") && strings.Contains(imp, ".") && !strings.HasPrefix(imp, "modernc.org/sqlite") && imp != "modernc.org/libc" {
					bad("store stands on the standard library and modernc.org/sqlite alone")
				}
				continue
			}
			switch {
			case slices.Contains(testKits, to) || under(to, "test"):
				bad("this is for tests only")
			case under(to, "cmd"), under(to, "appliance") && !under(from, "appliance") && !under(from, "cmd") && !under(from, "image"):
				bad("the appliance knows its peers, they do not know it")
			case under(to, "image") && !under(from, "image") && !(under(from, "cmd") && to == "image/boot") && !(from == "appliance" && to == "image/hardware"):
				bad("the disk image is built around the appliance, which knows nothing of it but the report of the hardware")
			case under(from, "cmd") && to != "appliance" && to != "image/boot":
				bad("a command is only a call of the appliance")
			case under(from, "store") && !under(to, "store"):
				bad("store knows nothing above it")
			}
			for _, peer := range peers {
				if under(to, peer) && !under(from, peer) && !under(from, "appliance") && !under(from, "image") {
					bad("peers are joined by the appliance, through interfaces of the consumer")
				}
			}
			if under(from, "homeserver") && under(to, "homeserver") && !within(from, to) {
				if a, b := floor(t, from), floor(t, to); a >= b {
					bad("inside the homeserver imports run downward only; let the consumer declare a function or interface and join them in homeserver.go")
				}
			}
		}
	}
}

// within reports whether both belong to the same package of the order (a package
// and its subpackages).
func within(a, b string) bool {
	name := func(p string) string {
		n, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(p, "homeserver"), "/"), "/")
		return n
	}
	return name(a) == name(b) && name(a) != ""
}

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		var doc string
		set := token.NewFileSet()
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				doc += file.Doc.Text()
			}
		}
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(doc, want) {
			t.Errorf("%s: the package comment must begin with %q and say what the package is for", p.ImportPath, want)
		} else if p.Name != "main" && !strings.Contains(doc, "nvariant") && !slices.Contains(testKits, rel(p.ImportPath)) {
			t.Errorf("%s: the package comment must say which invariants the package keeps", p.ImportPath)
		}
	}
}

var (
	tableLine = regexp.MustCompile(`(?i)^CREATE (?:VIRTUAL )?TABLE (?:IF NOT EXISTS )?(\w+)`)
	ownerLine = regexp.MustCompile(`^-- owner: ([\w/]+)`)
)

// owners maps each table to the package that owns it.
func owners(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "store/schema/[0-9]*.sql"))
	if err != nil || len(files) == 0 {
		t.Fatal("no migrations found", err)
	}
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		owner := ""
		for i, line := range strings.Split(string(b), "\n") {
			if m := ownerLine.FindStringSubmatch(line); m != nil {
				owner = m[1]
			}
			m := tableLine.FindStringSubmatch(line)
			if m == nil {
				if strings.TrimSpace(line) == "" {
					owner = "" // the line must stand right above, with comments between at most
				}
				continue
			}
			if owner == "" {
				t.Errorf("%s:%d: above table %s a line must say `-- owner: <package>`", filepath.Base(f), i+1, m[1])
			} else if _, err := os.Stat(filepath.Join(root, owner)); err != nil {
				t.Errorf("%s:%d: table %s belongs to %s, which does not exist", filepath.Base(f), i+1, m[1], owner)
			}
			out[m[1]], owner = owner, ""
		}
	}
	return out
}

// A table is named in SQL only by the package that owns it.
func TestTableOwners(t *testing.T) {
	tables := owners(t)
	named := regexp.MustCompile("(?i)\\b(?:FROM|INTO|UPDATE|JOIN|TABLE)\\s+[\"`\\[]?(\\w+)")
	second := regexp.MustCompile("(?i)\\bFROM\\s+[\"`\\[]?\\w+[\"`\\]]?(?:\\s+(?:AS\\s+)?\\w+)?\\s*,\\s*[\"`\\[]?(\\w+)") // FROM a x, b y
	uses := 0
	walk(t, func(path string, file *ast.File, set *token.FileSet) {
		dir := filepath.ToSlash(filepath.Dir(path))
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				return true
			}
			for _, m := range append(named.FindAllStringSubmatch(text, -1), second.FindAllStringSubmatch(text, -1)...) {
				owner, isTable := tables[m[1]]
				if !isTable {
					continue
				}
				uses++
				if !under(dir, owner) {
					t.Errorf("%s: table %s belongs to %s; call a function of that package", set.Position(lit.Pos()), m[1], owner)
				}
			}
			return true
		})
	})
	if uses < 20 {
		t.Fatalf("only %d uses of tables were found; does this test still see the SQL?", uses)
	}
}

// walk parses all Go files that are not tests.
func walk(t *testing.T, f func(path string, file *ast.File, set *token.FileSet)) {
	t.Helper()
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		r, _ := filepath.Rel(root, p)
		if d.IsDir() {
			if name := d.Name(); r != "." && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata" || r == "test" || r == "bin" || r == "data") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		for _, kit := range testKits {
			if under(filepath.ToSlash(r), kit) {
				return nil
			}
		}
		file, err := parser.ParseFile(set, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		f(r, file, set)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A command is at most 40 lines, and names that say nothing are not used.
func TestSmallThings(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "cmd/holdfast/main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n > 40 {
		t.Errorf("cmd/holdfast/main.go has %d lines; the appliance is the place for them", n)
	}
	for _, p := range packages(t) {
		switch p.Name {
		case "util", "utils", "common", "helpers", "misc":
			t.Errorf("%s: name the subject, not the shelf", p.ImportPath)
		}
	}
}

// golden compares a generated text with its file, or writes it with -update.
func golden(t *testing.T, name, text, how string) {
	t.Helper()
	path := filepath.Join(root, name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != text {
		t.Errorf("%s is not up to date; run: %s", name, how)
	}
}
