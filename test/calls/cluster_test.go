package calls

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/test/need"
)

const (
	redisPassword = "a password for tests only"
	clusterKey    = "a key for tests only, of more than 32 characters"
)

// startRedis starts a redis-server of the test's own.
func startRedis(t *testing.T) (addr string, kill func()) {
	t.Helper()
	program := need.Program(t, "redis-server", "redis-server")
	addr = freePort(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--port", port, "--bind", "127.0.0.1", "--requirepass", redisPassword, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { cmd.Process.Kill(); cmd.Wait() }
	t.Cleanup(kill)
	c := redis.NewClient(&redis.Options{Addr: addr, Password: redisPassword})
	defer c.Close()
	eventually(t, "Redis answers", 10*time.Second, func() bool { return c.Ping(t.Context()).Err() == nil })
	return addr, kill
}

// startNode runs `holdfast sfu` in a process of its own: it is TestNode in the child.
func startNode(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(append([]string{"sfu"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNode$")
	cmd.Env = append(os.Environ(), "NODE_ARGS="+string(b))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for s := bufio.NewScanner(out); s.Scan(); {
		if strings.Contains(s.Text(), "takes calls: UDP") {
			go io.Copy(io.Discard, out)
			return cmd
		}
	}
	t.Fatal("the node did not start")
	return nil
}

// TestNode is what startNode runs.
func TestNode(t *testing.T) {
	var args []string
	if json.Unmarshal([]byte(os.Getenv("NODE_ARGS")), &args) != nil {
		t.Skip("runs in a process of its own only")
	}
	os.Exit(appliance.Main(t.Context(), args, os.Stdout, os.Stderr))
}

func sets(values ...string) (out []string) {
	for _, v := range values {
		out = append(out, "--set", v)
	}
	return out
}

// An appliance and `holdfast sfu` on what could be another machine: a call is held
// there, and comes back here when that machine dies. Chat does not notice, neither that
// nor the end of Redis.
func TestCluster(t *testing.T) {
	t.Parallel() // it waits most of the time
	addr, killRedis := startRedis(t)
	joined := []string{"sfu.redis=" + addr, "sfu.redis_password=" + redisPassword, "sfu.cluster_key=" + clusterKey}
	h := house{appliancetest.Start(t, append([]string{"sfu.enabled=true", "listen.http=" + freePort(t)}, joined...)...)}
	health := freePort(t)
	node := startNode(t, sets(append([]string{"listen.metrics=" + health}, joined...)...)...)
	ready := func() (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + health + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	doctor := func() string {
		out, _, _ := h.CLI(t, "doctor")
		return out
	}
	eventually(t, "doctor knows the node", 10*time.Second, func() bool { return strings.Contains(doctor(), "call relay "+name) })

	alice, bob, carol := h.Login(t, "alice"), h.Login(t, "bob"), h.Login(t, "carol")
	roomID := h.makeRoom(t, alice, bob, carol)
	a, b, c := h.enter(t, roomID, alice), h.enter(t, roomID, bob), h.enter(t, roomID, carol)
	hearEachOther(t, 30*time.Second, a, b, c)
	if code, body := ready(); code != 200 || !strings.Contains(body, `"participants":3`) {
		t.Errorf("the node says %d %s", code, body)
	}
	if code := alice.Do(t, "POST", "/_matrix/client/v3/rooms/"+url.PathEscape(roomID)+"/kick", map[string]any{"user_id": carol.ID}, nil); code != 200 {
		t.Fatal(code)
	}
	eventually(t, "who is put out of the room is out of the call on the node", 10*time.Second, func() bool {
		_, body := ready()
		return strings.Contains(body, `"participants":2`)
	})

	// The appliance restarts, and learns from the node which call is there.
	h.Restart(t)
	hearEachOther(t, comesBack, a, b)
	if !h.member(t, roomID, alice, alice) || !h.member(t, roomID, alice, bob) {
		t.Error("the restart of the appliance took somebody out of the call")
	}
	eventually(t, "doctor knows the node and its call again", 10*time.Second, func() bool { return strings.Contains(doctor(), "1 calls, 2 people") })

	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	hearEachOther(t, comesBack, a, b)
	t.Log("the call was back after", time.Since(begun).Round(100*time.Millisecond))
	if a.ended.Load() || b.ended.Load() {
		t.Error("a client took it for the end of the call")
	}

	b.Disconnect()
	eventually(t, "bob is no member of the call", noGhost, func() bool { return !h.member(t, roomID, alice, bob) })
	if !h.member(t, roomID, alice, alice) {
		t.Error("alice is no member of the call")
	}
	b = h.enter(t, roomID, bob)

	killRedis()
	hearEachOther(t, 5*time.Second, a, b)
	eventually(t, "doctor says that Redis is gone", 15*time.Second, func() bool { return strings.Contains(doctor(), "Redis at "+addr+" cannot be used") })
	if out := doctor(); strings.Contains(out, redisPassword) || strings.Contains(out, clusterKey) || strings.Contains(h.Log.String(), redisPassword) {
		t.Error("a secret is shown")
	}
	h.makeRoom(t, bob, alice)
	other := h.makeRoom(t, carol)
	if code, out := h.ask(t, other, carol.Device, openID(t, carol), nil); code != 200 {
		t.Errorf("a new call without Redis: %d %v", code, out)
	}

	for _, bad := range []struct {
		set        []string
		code       int
		says, hint string
	}{
		{nil, 2, "sfu.redis", "sfu.cluster_key"},
		{[]string{"sfu.redis=" + addr, "sfu.redis_password=x", "sfu.cluster_key=short"}, 2, "sfu.cluster_key", "at least 32"},
		{[]string{"sfu.redis=" + addr, "sfu.cluster_key=" + clusterKey}, 2, "sfu.redis_password", "requirepass"},
		{append([]string{"listen.metrics="}, joined...), 1, addr, "look whether Redis runs there"},
	} {
		var out, errOut bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		code := appliance.Main(ctx, append([]string{"sfu"}, sets(bad.set...)...), &out, &errOut)
		cancel()
		if code != bad.code || !strings.Contains(errOut.String(), bad.says) || !strings.Contains(errOut.String(), bad.hint) {
			t.Errorf("%v: exit code %d, %s%s", bad.set, code, &out, &errOut)
		}
	}
}
