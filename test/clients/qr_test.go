package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"testing"
	"time"
)

// Both devices of a QR code login are matrix-js-sdk's, with its real encryption: the
// rendezvous, the secure channel, the device grant, and the secrets that go along.
func TestQRLogin(t *testing.T) {
	node := nodeBin(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := start(t)
	s.addUser(t, "alice")
	cmd := exec.CommandContext(ctx, node, "qr.mjs", s.url, "alice", password)
	cmd.Dir = "js"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	type linked struct {
		ServerName, User, Young, Old                                     string
		CheckCodes, SamePage, PageNames, Scope, Refresh, Ready, Verified bool
		Answered                                                         int
		Secrets                                                          []string
	}
	var r struct {
		Available, Reciprocate, Login bool
		Shown, Scanned, Declined      linked
		Closed, Devices               int
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !r.Available || !r.Reciprocate || !r.Login {
		t.Errorf("the library finds no QR login here, or makes another code: %s", out)
	}
	for way, l := range map[string]linked{"the old device shows": r.Shown, "the new device shows": r.Scanned} {
		if !l.CheckCodes || !l.SamePage || !l.PageNames || l.Answered != 200 {
			t.Errorf("%s: what the person compares: %+v", way, l)
		}
		if l.User != "@alice:hs.test" || !l.Scope || !l.Refresh {
			t.Errorf("%s: the session: %+v", way, l)
		}
		if len(l.Secrets) == 0 || !l.Ready || !l.Verified {
			t.Errorf("%s: the new device has not got the identity for encryption: %+v", way, l)
		}
	}
	if r.Scanned.ServerName != "hs.test" || r.Closed != 404 {
		t.Errorf("server name, and the rendezvous afterwards: %s", out)
	}
	if r.Declined.Young != "user_cancelled" || r.Declined.Old != "user_cancelled" || r.Devices != 3 {
		t.Errorf("declined: %s", out)
	}
}
