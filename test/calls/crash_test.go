package calls

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
)

// relayProcess is the process of the relay that this program started.
func relayProcess(t *testing.T) int { return relayOf(t, os.Getpid()) }

// relayOf is the process of the relay that a program started, which is the only one of
// that name.
func relayOf(t *testing.T, pid int) int {
	t.Helper()
	found, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(found) == 0 {
		t.Fatalf("the kernel does not say which processes this one started: %v", err)
	}
	for _, file := range found {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread ended
		}
		for _, child := range strings.Fields(string(b)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if pid, err := strconv.Atoi(child); err == nil && string(line) == "holdfast-relay\x00" {
				return pid
			}
		}
	}
	return 0
}

// metric is a figure of the metrics listener.
func (h house) metric(t *testing.T, name string) string {
	t.Helper()
	resp, err := http.Get(h.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for in := bufio.NewScanner(resp.Body); in.Scan(); {
		if value, ok := strings.CutPrefix(in.Text(), name+" "); ok {
			return value
		}
	}
	return ""
}

// The relay crashes in the middle of a call. Nobody notices in chat or while signing in,
// and the call comes back by itself, with nobody shown as having left it.
func TestRelayCrash(t *testing.T) {
	h := openHouse(t)
	alice, bob := h.Login(t, "alice"), h.Login(t, "bob")
	roomID := h.makeRoom(t, alice, bob)
	room := "/_matrix/client/v3/rooms/" + url.PathEscape(roomID)
	state := room + "/state/" + memberType + "/_" + bob.ID + "_" + bob.Device + "_m.call"
	var delayed map[string]any
	if code := bob.Do(t, "PUT", state+"?org.matrix.msc4140.delay=3600000", map[string]any{}, &delayed); code != 200 {
		t.Fatal(code, delayed)
	}
	if code := bob.Do(t, "PUT", state, map[string]any{"application": "m.call", "device_id": bob.Device}, nil); code != 200 {
		t.Fatal(code)
	}
	_, a := h.ask(t, roomID, alice.Device, openID(t, alice), nil)
	_, b := h.ask(t, roomID, bob.Device, openID(t, bob), map[string]any{"delay_id": delayed["delay_id"], "delay_timeout": 3600000})
	here, err := connect(t, a["url"].(string), a["jwt"].(string))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(here.Disconnect)
	there, err := connect(t, b["url"].(string), b["jwt"].(string))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(there.Disconnect)
	together := func() bool {
		return here.ConnectionState() == lksdk.ConnectionStateConnected && there.ConnectionState() == lksdk.ConnectionStateConnected &&
			len(here.GetRemoteParticipants()) == 1 && len(there.GetRemoteParticipants()) == 1
	}
	eventually(t, "both are in the call", 20*time.Second, together)

	before := relayProcess(t)
	if before == 0 {
		t.Fatal("the relay is no process of its own")
	}
	begun := time.Now()
	if err := syscall.Kill(before, syscall.SIGABRT); err != nil { // what a panic ends with
		t.Fatal(err)
	}
	for i := range 5 {
		var sent map[string]any
		if code := bob.Do(t, "PUT", room+"/send/m.room.message/crash"+strconv.Itoa(i), map[string]any{"msgtype": "m.text", "body": "still here"}, &sent); code != 200 {
			t.Errorf("a message while the relay is away: %d %v", code, sent)
		}
		if code := alice.Do(t, "GET", room+"/event/"+url.PathEscape(sent["event_id"].(string)), nil, nil); code != 200 {
			t.Errorf("reading it: %d", code)
		}
	}
	h.Login(t, "carol")
	for _, path := range []string{"/.well-known/openid-configuration", "/_matrix/client/v1/auth_metadata", "/oauth2/jwks"} {
		resp, err := http.Get(h.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s while the relay is away: %s", path, resp.Status)
		}
	}

	eventually(t, "another relay runs", 10*time.Second, func() bool { pid := relayProcess(t); return pid != 0 && pid != before })
	eventually(t, "both are in the call again", 30*time.Second, func() bool { return h.metric(t, "holdfast_calls_participants") == "2" && together() })
	took := time.Since(begun)
	t.Log("the call was back after", took.Round(100*time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("the call took %v to come back", took)
	}
	var member map[string]any
	if code := alice.Do(t, "GET", state, nil, &member); code != 200 || len(member) == 0 {
		t.Errorf("the room shows bob as gone: %d %v", code, member)
	}
}
