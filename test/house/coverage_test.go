package house

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver"
	"holdfast/homeserver/apitest"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/blob"
)

// routes are what the homeserver answers, as it is wired.
func routes(t *testing.T) []route.Route {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	db, err := store.Open(ctx, filepath.Join(dir, "holdfast.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	blobs, err := blob.Open(filepath.Join(dir, "media"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := homeserver.New(ctx, homeserver.Options{ServerName: "hs.test", DB: db, Secrets: apitest.Secrets(), Blobs: blobs, RegistrationOpen: true, SharedSecret: "s"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h.Routes()
}

type operation struct{ method, path, id, file string }

var param = regexp.MustCompile(`\{[^}]*\}`)

// shape is a path without the names of its parameters.
func shape(method, path string) string {
	return method + " " + param.ReplaceAllString(strings.TrimSuffix(path, "{$}"), "{}")
}

// notYet are the operations that are still to be built. A name goes when its
// operation comes; what is neither served, nor refused, nor here fails the test.
var notYet = strings.Fields(`
`)

// Every operation of the specification's client-server API is listed with its
// state, so that nothing is forgotten silently: it is done, or deliberately
// refused with a reason, or still to be built. It must have its route where the
// specification says.
func TestSpecCoverage(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "docs/dev/operations.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	var ops []operation
	spec := map[string][]string{} // shape -> operations; a few share a path
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 4 {
			t.Fatalf("operations.tsv: %q", line)
		}
		o := operation{f[0], strings.TrimSpace(f[1]), f[2], f[3]}
		ops = append(ops, o)
		spec[shape(o.method, o.path)] = append(spec[shape(o.method, o.path)], o.id)
	}
	have := map[string][]string{} // operation -> shapes
	names := map[string]string{}  // shape -> operation
	refused := map[string]*route.Refusal{}
	for _, r := range routes(t) {
		method, path, _ := strings.Cut(r.Pattern, " ")
		if refused[r.Op] = r.Refuse; (r.Refuse == nil) == (r.Handle == nil) {
			t.Errorf("%s has to be either handled or refused", r.Op)
		} else if r.Refuse != nil && (r.Refuse.Reason == "" || r.Refuse.Answer == nil || r.Refuse.Answer.Msg == "") {
			t.Errorf("%s is refused without a reason or an answer", r.Op)
		}
		paths := append([]string{path}, r.Aliases...)
		for _, p := range paths {
			m := method
			if a, b, ok := strings.Cut(p, " "); ok {
				m, p = a, b
			}
			have[r.Op] = append(have[r.Op], shape(m, p))
			names[shape(m, p)] = r.Op
		}
	}
	var out strings.Builder
	done, refusals := 0, 0
	known := map[string]bool{}
	slices.SortFunc(ops, func(a, b operation) int {
		return strings.Compare(a.file+a.path+a.method, b.file+b.path+b.method)
	})
	file := ""
	for _, o := range ops {
		known[o.id] = true
		if o.file != file {
			file = o.file
			fmt.Fprintf(&out, "\n## %s\n\n| operation | | here |\n|---|---|---|\n", strings.TrimSuffix(file, ".yaml"))
		}
		state := "not yet"
		at := shape(o.method, o.path)
		switch {
		case slices.Contains(have[o.id], at) && refused[o.id] != nil:
			no := refused[o.id]
			state = fmt.Sprintf("**refused** with %d `%s`: %s", route.Status(no.Answer), no.Answer.Code, no.Reason)
			refusals++
		case slices.Contains(have[o.id], at):
			state = "done"
			done++
		case len(have[o.id]) > 0:
			t.Errorf("%s answers %v, but the specification has it at %s", o.id, have[o.id], at)
		case slices.Contains(spec[at], names[at]):
			if state, done = "done", done+1; refused[names[at]] != nil {
				state, done, refusals = "**refused**, as "+names[at], done-1, refusals+1
			}
		case names[at] != "":
			t.Errorf("%s is answered as %q: use the specification's name", at, names[at])
		case !slices.Contains(notYet, o.id):
			t.Errorf("%s (%s %s) has no route: serve it, or refuse it with a reason (route.Refusal)", o.id, o.method, o.path)
		}
		fmt.Fprintf(&out, "| %s | `%s %s` | %s |\n", o.id, o.method, o.path, state)
	}
	var own []string
	for op, at := range have {
		if !known[op] {
			slices.Sort(at)
			own = append(own, fmt.Sprintf("| %s | `%s` |\n", op, strings.Join(slices.Compact(at), "`, `")))
		}
	}
	slices.Sort(own)
	head := fmt.Sprintf("# Client-server API: what there is\n\nGenerated from the route table and operations.tsv (version 1.19 of the specification):\n`go test ./test/house -update`. \"done\" says that there is a route at the right place; whether it\ndoes what it should is for the tests to say. \"refused\" is deliberate, with the answer and the reason.\n\n**%d of %d operations are done, %d are refused.**\n", done, len(ops), refusals)
	text := head + out.String() + "\n## Not of the client-server API\n\nUnstable names, other APIs, and our own.\n\n| operation | where |\n|---|---|\n" + strings.Join(own, "")
	golden(t, "docs/dev/spec-coverage.md", text, "go test ./test/house -update")
}
