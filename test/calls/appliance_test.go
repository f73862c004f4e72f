package calls

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/livekit/protocol/logger"

	"holdfast/appliance/appliancetest"
)

// These tests run the whole appliance, with its own identity provider.

type house struct{ *appliancetest.Server }

func openHouse(t *testing.T) house {
	t.Helper()
	return house{appliancetest.Start(t, "sfu.enabled=true")}
}

func (h house) makeRoom(t *testing.T, by *appliancetest.User, others ...*appliancetest.User) (roomID string) {
	t.Helper()
	var out struct {
		RoomID string `json:"room_id"`
	}
	if code := by.Do(t, "POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat",
		"power_level_content_override": map[string]any{"events": map[string]int{memberType: 0}}}, &out); code != 200 {
		t.Fatal(code)
	}
	for _, u := range others {
		if code := u.Do(t, "POST", "/_matrix/client/v3/join/"+url.PathEscape(out.RoomID), map[string]any{}, nil); code != 200 {
			t.Fatal(code)
		}
	}
	return out.RoomID
}

func openID(t *testing.T, u *appliancetest.User) map[string]any {
	t.Helper()
	var out map[string]any
	if code := u.Do(t, "POST", "/_matrix/client/v3/user/"+u.ID+"/openid/request_token", map[string]any{}, &out); code != 200 {
		t.Fatal(code, out)
	}
	return out
}

// ask asks the token service for a relay token, as clients do.
func (h house) ask(t *testing.T, roomID, device string, openID map[string]any, more map[string]any) (status int, out map[string]any) {
	t.Helper()
	in := map[string]any{"room": roomID, "device_id": device, "openid_token": openID}
	for k, v := range more {
		in[k] = v
	}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(h.URL+"/livekit/jwt/sfu/get", "application/json", strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, out
}

func connect(t *testing.T, url, jwt string) (*lksdk.Room, error) {
	return lksdk.ConnectToRoomWithToken(url, jwt, lksdk.NewRoomCallback(), lksdk.WithLogger(logger.GetDiscardLogger()),
		lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(30*time.Second))
}

// program runs a participant in a process of its own. It is this test in the child.
func program(t *testing.T, url, jwt string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProgram$")
	cmd.Env = append(os.Environ(), "CALL_URL="+url, "CALL_JWT="+jwt)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for s := bufio.NewScanner(pipe); s.Scan(); {
		if s.Text() == "in the call" {
			return cmd
		}
	}
	t.Fatal("the program did not come into the call")
	return nil
}

// TestProgram is what program runs.
func TestProgram(t *testing.T) {
	if os.Getenv("CALL_URL") == "" {
		t.Skip("runs in a process of its own only")
	}
	if _, err := connect(t, os.Getenv("CALL_URL"), os.Getenv("CALL_JWT")); err != nil {
		t.Fatal(err)
	}
	fmt.Println("in the call")
	select {} // until it is killed
}

// noGhost is how soon nothing may be left of a participant whose program was killed.
const noGhost = 15 * time.Second

// Somebody's program is killed in the middle of a call, so that nothing says good-bye:
// the others see them leave, and the room does not show them in the call any more.
func TestNoGhost(t *testing.T) {
	t.Parallel() // it waits most of the time
	h := openHouse(t)
	alice, bob := h.Login(t, "alice"), h.Login(t, "bob")
	roomID := h.makeRoom(t, alice, bob)
	state := "/_matrix/client/v3/rooms/" + url.PathEscape(roomID) + "/state/" + memberType + "/_" + bob.ID + "_" + bob.Device + "_m.call"
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
	there := program(t, b["url"].(string), b["jwt"].(string))
	eventually(t, "alice sees bob", 20*time.Second, func() bool { return len(here.GetRemoteParticipants()) == 1 })
	if err := there.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	eventually(t, "alice sees bob leave", noGhost, func() bool { return len(here.GetRemoteParticipants()) == 0 })
	t.Log("gone from the relay after", time.Since(begun).Round(time.Second))
	eventually(t, "bob is no member of the call", noGhost-time.Since(begun), func() bool {
		var member map[string]any
		if code := alice.Do(t, "GET", state, nil, &member); code != 200 {
			t.Fatal(code)
		}
		return len(member) == 0
	})
	t.Log("gone from the room after", time.Since(begun).Round(time.Second))
}

// Whose access is taken away is out of the call at once, and what they were given
// before lets them in no more.
func TestAccessEndsTheCall(t *testing.T) {
	h := openHouse(t)
	alice, admin := h.Login(t, "alice"), h.Login(t, "admin", "--admin")
	for _, c := range []struct {
		name string
		end  func(t *testing.T, u *appliancetest.User)
		ask  int // what the old OpenID token gets
	}{
		{"locked", func(t *testing.T, u *appliancetest.User) {
			if _, e, code := h.CLI(t, "user", "disable", u.ID); code != 0 {
				t.Fatal(e)
			}
		}, http.StatusUnauthorized},
		{"suspended", func(t *testing.T, u *appliancetest.User) {
			if code := admin.Do(t, "PUT", "/_matrix/client/v1/admin/suspend/"+url.PathEscape(u.ID), map[string]any{"suspended": true}, nil); code != 200 {
				t.Fatal(code)
			}
		}, http.StatusForbidden},
		{"signed-out", func(t *testing.T, u *appliancetest.User) {
			if code := u.Do(t, "POST", "/_matrix/client/v3/logout", map[string]any{}, nil); code != 200 {
				t.Fatal(code)
			}
		}, http.StatusForbidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			bob := h.Login(t, c.name)
			roomID := h.makeRoom(t, alice, bob)
			_, a := h.ask(t, roomID, alice.Device, openID(t, alice), nil)
			proof := openID(t, bob)
			_, b := h.ask(t, roomID, bob.Device, proof, nil)
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
			eventually(t, "alice sees the other", 20*time.Second, func() bool { return len(here.GetRemoteParticipants()) == 1 })
			c.end(t, bob)
			eventually(t, "alice sees the other leave", 30*time.Second, func() bool { return len(here.GetRemoteParticipants()) == 0 })
			if code, out := h.ask(t, roomID, bob.Device, proof, nil); code != c.ask {
				t.Errorf("the old proof gets a token: %d %v", code, out)
			}
			if again, err := connect(t, b["url"].(string), b["jwt"].(string)); err == nil {
				again.Disconnect()
				t.Error("the old token lets them in")
			}
			if got := here.ConnectionState(); got != lksdk.ConnectionStateConnected {
				t.Errorf("alice is %s", got)
			}
		})
	}
}
