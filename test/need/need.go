// Package need finds the programs that tests are judged by and that are not part of
// the project: Debian's own readers of what is written here.
//
// Invariants: on a person's machine a missing program skips the test, with the name
// of its package; in CI, which installs them all (tools-test in the Makefile), it
// fails the test, so that nothing goes unchecked in silence.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Program gives the path of a program, which Debian's package pkg brings. Those that
// are meant for root are found by everybody.
func Program(t testing.TB, program, pkg string) string {
	t.Helper()
	for _, name := range []string{program, "/usr/sbin/" + program, "/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Missing(t, "%s is missing: apt-get install %s", program, pkg)
	return ""
}

// Root is for what only root can do.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "only root can do this: run the tests as root")
	}
}

// Missing ends a test because something is not there.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
