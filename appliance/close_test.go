package appliance_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/config"
)

// A machine unmounts the data after the appliance has stopped, so that nothing of
// it may be open then.
func TestCloseLeavesNothingOpen(t *testing.T) {
	dir := t.TempDir()
	cfg, err := config.Load(config.Input{Data: dir, Set: []string{"listen.https=127.0.0.1:0", "listen.metrics="}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := appliance.Start(t.Context(), cfg, nil, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if len(open(t, dir)) == 0 {
		t.Fatal("nothing is open while it runs; does this test still look at the right folder?")
	}
	a.Close()
	if list := open(t, dir); len(list) > 0 {
		t.Errorf("still open: %s", strings.Join(list, " "))
	}
}

func open(t *testing.T, dir string) (list []string) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, dir) {
			list = append(list, name)
		}
	}
	return list
}
