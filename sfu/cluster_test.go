package sfu

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/redis/go-redis/v9"

	"holdfast/test/need"
)

const redisPassword = "a password for tests only"

// redisServer is a redis-server of the test's own.
type redisServer struct {
	addr string
	cmd  *exec.Cmd
}

func startRedis(t *testing.T, addr string) *redisServer {
	t.Helper()
	program := need.Program(t, "redis-server", "redis-server")
	if addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr = l.Addr().String()
		l.Close()
	}
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(program, "--port", port, "--bind", "127.0.0.1", "--requirepass", redisPassword, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &redisServer{addr, cmd}
	t.Cleanup(r.kill)
	c := redis.NewClient(&redis.Options{Addr: addr, Password: redisPassword})
	defer c.Close()
	eventually(t, "Redis answers", 10*time.Second, func() bool { return c.Ping(t.Context()).Err() == nil })
	return r
}

func (r *redisServer) kill() {
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

func (r *redisServer) cluster(node bool, name string) *Cluster {
	return &Cluster{Redis: r.addr, Password: redisPassword, Key: strings.Repeat("k", MinClusterKey), Node: node, Name: name}
}

// startNode starts a node in a process of its own. It is TestNode in the child.
func startNode(t *testing.T, o Options) (*exec.Cmd, []string) {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNode$")
	cmd.Env = append(os.Environ(), "SFU_NODE="+string(b))
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
		if rest, ok := strings.CutPrefix(s.Text(), "node: "); ok {
			go func() {
				for s.Scan() {
				}
			}()
			return cmd, strings.Fields(rest)
		}
	}
	t.Fatal("the node did not start")
	return nil, nil
}

// TestNode is what startNode runs.
func TestNode(t *testing.T) {
	if os.Getenv("SFU_NODE") == "" {
		t.Skip("runs in a process of its own only")
	}
	var o Options
	if err := json.Unmarshal([]byte(os.Getenv("SFU_NODE")), &o); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("SFU_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	fmt.Println("node:", strconv.Itoa(s.Ports().UDP), strconv.Itoa(s.Ports().TURN))
	<-ctx.Done()
	at, stop := context.WithCancel(context.Background())
	stop()
	if err := s.Close(at); err != nil {
		t.Fatal(err)
	}
}

func (c *caller) total() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, packets := range c.heard {
		n += len(packets)
	}
	return n
}

// backWithin is how soon a call whose relay is gone is held by another.
const backWithin = 15 * time.Second

func hearMore(t *testing.T, what string, within time.Duration, all ...*caller) {
	t.Helper()
	begun := time.Now()
	var before []int
	for _, c := range all {
		before = append(before, c.total())
	}
	eventually(t, what, within, func() bool {
		for i, c := range all {
			if c.total() < before[i]+25 {
				return false
			}
		}
		return true
	})
	t.Log(what, "after", time.Since(begun).Round(100*time.Millisecond))
}

// A cluster of two processes: calls go to the node, with their limits and removals, and
// come back on the other relay when the node is killed, stops, or Redis is gone.
func TestCluster(t *testing.T) {
	r := startRedis(t, "")
	any := Options{UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort, MaxParticipants: 3}
	o := any
	o.Cluster = r.cluster(false, "")
	s, base := begin(t, o)
	var mu sync.Mutex
	var gone []string
	s.Subscribe(func(room, identity string, joined bool) {
		mu.Lock()
		defer mu.Unlock()
		if !joined {
			gone = append(gone, room+"/"+identity)
		}
	})
	node := any
	node.Cluster = r.cluster(true, "one")
	one, ports := startNode(t, node)
	eventually(t, "the node is known", 10*time.Second, func() bool { return len(s.Cluster().Nodes) == 1 })

	enter := func(room, who string) *caller {
		t.Helper()
		if err := s.EnsureRoom(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		c, err := call(t, base, token(t, s, room, who))
		if err != nil {
			t.Fatal(err)
		}
		c.speak(t)
		return c
	}
	here := func(room string) bool {
		e, err := s.running()
		return err == nil && e.rooms.GetRoom(t.Context(), livekit.RoomName(room)) != nil
	}
	alice, bob := enter("call", "alice"), enter("call", "bob")
	hearMore(t, "they hear each other", 20*time.Second, alice, bob)
	if here("call") {
		t.Fatal("the call is not on the node")
	}
	if got := s.Participants("call"); !slices.Equal(got, []string{"alice", "bob"}) {
		t.Errorf("in the call are %v", got)
	}

	// How the call is, is told by the node.
	eventually(t, "the figures of the call on the node", 20*time.Second, func() bool {
		list, err := s.Calls(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 || list[0].Node != "one" || list[0].Participants != 2 || list[0].People != nil {
			t.Fatalf("%+v", list)
		}
		return list[0].UpBits > 1000 && list[0].DownBits > 1000
	})
	list, err := s.Calls(t.Context(), "call")
	if err != nil || len(list) != 1 || len(list[0].People) != 2 {
		t.Fatalf("%+v %v", list, err)
	}
	for _, p := range list[0].People {
		if p.Path != PathUDP || p.Up.Bits < 1000 || len(p.Tracks) != 1 || !strings.HasPrefix(p.Client, "go ") {
			t.Errorf("%+v", p)
		}
	}
	if _, err := s.Calls(t.Context(), "none"); !errors.Is(err, ErrNoCall) {
		t.Errorf("no such call: %v", err)
	}

	// What a client is told of are the node's ports.
	c, err := dial(t.Context(), base+"/rtc", token(t, s, "call", "carol"), PathUDP, nil)
	if err != nil {
		t.Fatal(err)
	}
	told := fmt.Sprint(c.join.GetIceServers())
	if !strings.Contains(told, ":"+ports[1]+"?transport=udp") || strings.Contains(told, "turns:") || strings.Contains(told, ":"+strconv.Itoa(s.Ports().TURN)+"?") {
		t.Errorf("the node's TURN port is %s, but told of is %s", ports[1], told)
	}
	eventually(t, "carol is known to be in the call", 10*time.Second, func() bool { return s.presence.has("call", "carol") })
	if got := s.Full("call", "dave"); got != FullParticipants {
		t.Errorf("a fourth participant: %q", got)
	}
	s.Remove("call", "carol")
	eventually(t, "carol is out of the call", 10*time.Second, func() bool { return !s.presence.has("call", "carol") })
	c.close()
	if got := s.Full("call", "dave"); got != "" {
		t.Errorf("a third participant: %q", got)
	}

	// The node is killed.
	if err := one.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	hearMore(t, "the call is back when its node was killed", backWithin, alice, bob)
	if !here("call") {
		t.Error("the call is nowhere")
	}

	// Another takes the next call, and its stop is no end of it.
	two, _ := startNode(t, node)
	eventually(t, "the second node is known", 10*time.Second, func() bool { return len(s.Cluster().Nodes) == 1 })
	erin, frank := enter("other", "erin"), enter("other", "frank")
	hearMore(t, "they hear each other on the second node", 20*time.Second, erin, frank)
	if here("other") {
		t.Error("the second call is not on the second node")
	}
	if err := two.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hearMore(t, "the call is back when its node stopped", backWithin, erin, frank)

	// Redis is gone: calls on the third node come here, and those here go on.
	startNode(t, node)
	eventually(t, "the third node is known", 10*time.Second, func() bool { return len(s.Cluster().Nodes) == 1 })
	grace, heidi := enter("third", "grace"), enter("third", "heidi")
	hearMore(t, "they hear each other on the third node", 20*time.Second, grace, heidi)
	if here("third") {
		t.Error("the third call is not on the third node")
	}
	r.kill()
	hearMore(t, "those here do not notice that Redis is gone", 3*time.Second, alice, bob, erin, frank)
	eventually(t, "it is known that Redis is gone", 10*time.Second, func() bool { return s.Cluster().Trouble != "" })
	eventually(t, "the third call is held here", backWithin, func() bool { return here("third") })
	hearMore(t, "the call is back without Redis", backWithin, grace, heidi)
	ivan := enter("fourth", "ivan")
	if !here("fourth") || ivan == nil {
		t.Error("a new call without Redis")
	}
	startRedis(t, r.addr)
	eventually(t, "Redis is back and the node known", 20*time.Second, func() bool { st := s.Cluster(); return st.Trouble == "" && len(st.Nodes) == 1 })
	hearMore(t, "nobody notices that Redis is back", 10*time.Second, alice, bob, erin, frank, grace, heidi)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(gone, []string{"call/carol"}) {
		t.Errorf("these are said to have left: %v", gone)
	}
}

// Redis is talked to by TLS where that is set, and a wrong password, a wrong authority
// or another cluster's key are told as what they are.
func TestRedis(t *testing.T) {
	program := need.Program(t, "redis-server", "redis-server")
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, b := range map[string][]byte{"cert": ca, "key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--port", "0", "--tls-port", port, "--tls-cert-file", "cert", "--tls-key-file", "key", "--tls-ca-cert-file", "cert",
		"--tls-auth-clients", "no", "--bind", "127.0.0.1", "--requirepass", redisPassword, "--save", "", "--appendonly", "no")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	good := Cluster{Redis: addr, Password: redisPassword, TLS: true, CA: string(ca), Key: strings.Repeat("k", MinClusterKey), Node: true, Name: "one"}
	ping := func(c Cluster) error {
		t.Helper()
		rc, err := c.client()
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		return rc.Ping(t.Context()).Err()
	}
	eventually(t, "Redis answers by TLS", 10*time.Second, func() bool { return ping(good) == nil })

	var log lines
	house := good
	house.Node = false
	s, err := New(Options{UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort, Cluster: &house, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	other := good
	other.Key = strings.Repeat("x", MinClusterKey)
	begin(t, Options{Cluster: &other})
	eventually(t, "a node with another key is told of", 10*time.Second, func() bool { return strings.Contains(log.String(), "another cluster key") })
	begin(t, Options{Cluster: &good})
	eventually(t, "the node with the key is there", 10*time.Second, func() bool { return len(s.Cluster().Nodes) == 1 })

	for _, c := range []struct {
		change func(*Cluster)
		says   string
	}{
		{func(c *Cluster) { c.Password = "wrong" }, "WRONGPASS"},
		{func(c *Cluster) { c.CA = "" }, "certificate"},
	} {
		bad := good
		c.change(&bad)
		n, err := New(Options{UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort, Cluster: &bad})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); !errors.Is(err, ErrRedis) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), redisPassword) {
			t.Errorf("%q is expected in: %v", c.says, err)
		}
	}
	for _, bad := range []Cluster{{Redis: "x", Password: "x", Key: good.Key}, {Redis: addr, Key: good.Key}, {Redis: addr, Password: "x", Key: "short"}, {Redis: addr, Password: "x", Key: good.Key, TLS: true, CA: "x"}} {
		if err := Check(Options{Cluster: &bad}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// lines is a log that is read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// FuzzNote is a node that says anything about itself and who is on it.
func FuzzNote(f *testing.F) {
	s, err := New(Options{UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort, NodeIP: "127.0.0.1",
		Cluster: &Cluster{Redis: "127.0.0.1:1", Password: "x", Key: strings.Repeat("k", MinClusterKey)}})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil { // Redis is not needed for it
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(context.Background()) })
	e, err := s.running()
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range []note{
		{Kind: noteBeat, Node: "a", State: NodeServing, Rooms: map[string]map[string]string{"r": {"x": "1"}}},
		{Kind: noteBeat, Node: "b", State: NodeLeaving, Rooms: map[string]map[string]string{"r": nil}},
		{Kind: noteRemove, Node: string(e.cluster.self), Room: "r", Identity: "x"},
		{Kind: noteLook, Room: "r"},
		{Kind: noteCalls, Node: "a", Calls: []Call{{Room: "r", Participants: 1, People: []Participant{{Identity: "x"}}}}},
	} {
		b, err := json.Marshal(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, body []byte, signed bool) {
		sent := body
		if signed {
			sent = append(e.cluster.sign(body), body...)
		}
		n, err := e.cluster.open(sent)
		if err == nil && !signed {
			t.Fatal("a note without a signature is heard")
		}
		if err != nil {
			return
		}
		// As hear and order do, without Redis to answer by.
		e.cluster.order(n)
		if n.Kind == noteCalls {
			e.cluster.shown(n)
		}
		if n.Kind == noteBeat && n.Node != "" {
			e.cluster.take(n)
			e.cluster.mu.Lock()
			defer e.cluster.mu.Unlock()
			for room, h := range e.cluster.rooms {
				if h.node != e.cluster.self && e.cluster.nodes[h.node] == nil {
					t.Fatalf("%q is held by a node that is not known", room)
				}
			}
		}
	})
}
