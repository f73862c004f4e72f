package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"testing"
	"time"
)

// One person's devices with matrix-js-sdk: verified by emoji, restored from the key
// backup, and unread messages counted by thread.
func TestDevicesOfOnePerson(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	s := start(t)
	s.addUser(t, "alice")
	s.addUser(t, "bob")
	cmd := exec.CommandContext(ctx, nodeBin(t), "devices.mjs", s.url, "alice", "bob", password)
	cmd.Dir = "js"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var r struct {
		Backup                        string
		CrossSigning, Verified, Third bool
		Thread                        int
		Restored                      [2]int
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Backup == "" || !r.CrossSigning || !r.Verified || !r.Third || r.Thread != 2 || r.Restored[0] < 2 || r.Restored[0] != r.Restored[1] {
		t.Errorf("%s", out)
	}
	t.Logf("%s", out)
}
