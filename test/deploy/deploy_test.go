// Package deploy runs the real program in the ways that the documentation offers
// beside the disk image: behind the sample configurations of reverse proxies, from
// the Debian package and from the container image.
//
// Invariants: the proxies are Debian's own and read the very samples of
// docs/examples, with only names, ports and files of the test put in; a test that
// needs a package or root says so and skips, but not in CI.
package deploy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/test/need"
)

// binary is the program: HOLDFAST_BIN, or one built for the purpose.
func binary(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("HOLDFAST_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "holdfast")
	build := exec.Command("go", "build", "-o", bin, "../../cmd/holdfast")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// run starts a program that ends with the test.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("%s wrote:\n%s", filepath.Base(cmd.Path), out.String())
		}
	})
}

// client is a Matrix client at an address, from a source address of its own.
type client struct {
	t     *testing.T
	base  string
	http  *http.Client
	token string
}

func newClient(t *testing.T, base string, roots *x509.CertPool, from string, dial string) *client {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return &client{t: t, base: base, http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dial != "" {
				addr = dial
			}
			return d.DialContext(ctx, network, addr)
		},
	}}}
}

func (c *client) try(method, path, kind string, body io.Reader) (int, []byte, error) {
	req, err := http.NewRequest(method, c.base+path, body)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", kind)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, raw, err
}

func (c *client) ask(method, path string, in any) map[string]any {
	c.t.Helper()
	var body io.Reader
	if in != nil {
		b, _ := json.Marshal(in)
		body = bytes.NewReader(b)
	}
	status, raw, err := c.try(method, path, "application/json", body)
	if err != nil || status != 200 {
		c.t.Fatalf("%s %s: %d %v %s", method, path, status, err, raw)
	}
	out := map[string]any{}
	json.Unmarshal(raw, &out)
	return out
}

// await waits until a server answers.
func (c *client) await() {
	c.t.Helper()
	var err error
	for range 300 {
		var status int
		if status, _, err = c.try("GET", "/_matrix/client/versions", "", nil); err == nil && status == 200 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatalf("%s does not answer: %v", c.base, err)
}

// certificate writes a pair for a name, and gives who trusts it.
func certificate(t *testing.T, dir, name string) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for path, b := range map[string][]byte{cert: certPEM, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return cert, key, roots
}

// sample reads a sample configuration and puts other things in; each must be there.
func sample(t *testing.T, name string, put ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docs/examples", name))
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	for i := 0; i < len(put); i += 2 {
		if !strings.Contains(s, put[i]) {
			t.Fatalf("%s has no %q", name, put[i])
		}
		s = strings.ReplaceAll(s, put[i], put[i+1])
	}
	return s
}

func TestCaddy(t *testing.T) {
	caddy := need.Program(t, "caddy", "caddy")
	behind(t, func(dir, cert, key string, port, to int) *exec.Cmd {
		conf := sample(t, "Caddyfile", "127.0.0.1:8008", fmt.Sprint("127.0.0.1:", to),
			"chat.example.org {", fmt.Sprintf("https://chat.example.org:%d {\n\tbind 127.0.0.1\n\ttls %s %s", port, cert, key))
		// What a test may not do: open the usual ports, and keep things at home.
		conf = "{\n\tadmin off\n\tauto_https disable_redirects\n\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n" + conf
		path := filepath.Join(dir, "Caddyfile")
		write(t, path, conf)
		cmd := exec.Command(caddy, "run", "--config", path, "--adapter", "caddyfile")
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		return cmd
	})
}

func TestNginx(t *testing.T) {
	nginx := need.Program(t, "nginx", "nginx-light")
	behind(t, func(dir, cert, key string, port, to int) *exec.Cmd {
		site := sample(t, "nginx.conf", "127.0.0.1:8008", fmt.Sprint("127.0.0.1:", to), "listen 443 ssl", fmt.Sprintf("listen 127.0.0.1:%d ssl", port),
			"/etc/ssl/chat.example.org.pem", cert, "/etc/ssl/chat.example.org.key", key)
		path := filepath.Join(dir, "nginx.conf")
		user := ""
		if os.Getuid() == 0 {
			user = "user root;\n"
		}
		write(t, path, user+"daemon off;\npid "+dir+"/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"+
			"client_body_temp_path "+dir+"/b;\nproxy_temp_path "+dir+"/p;\nfastcgi_temp_path "+dir+"/f;\nuwsgi_temp_path "+dir+"/u;\nscgi_temp_path "+dir+"/s;\n"+site+"}\n")
		return exec.Command(nginx, "-c", path, "-e", "stderr")
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// behind runs the program behind a proxy and asks it what proxies get wrong.
func behind(t *testing.T, proxy func(dir, cert, key string, port, to int) *exec.Cmd) {
	dir := t.TempDir()
	cert, key, roots := certificate(t, dir, "chat.example.org")
	port, to := freePort(t), freePort(t)
	base := fmt.Sprintf("https://chat.example.org:%d", port)
	run(t, exec.Command(binary(t), "serve", "--data", filepath.Join(dir, "data"), "--set", "tls.mode=off", "--set", fmt.Sprint("listen.http=127.0.0.1:", to),
		"--set", "public_url="+base, "--set", "server_name=example.org", "--set", "listen.metrics=", "--set", "registration.open=true"))
	run(t, proxy(dir, cert, key, port, to))

	c := newClient(t, base, roots, "127.0.0.2", fmt.Sprint("127.0.0.1:", port))
	c.await()
	got := c.ask("POST", "/_matrix/client/v3/register", map[string]any{"username": "anna", "device_id": "D", "password": "correct horse", "auth": map[string]string{"type": "m.login.dummy"}})
	c.token = got["access_token"].(string)
	user := got["user_id"].(string)

	t.Run("addresses are its own", func(t *testing.T) {
		c := *c
		c.t = t
		if got := c.ask("GET", "/.well-known/matrix/client", nil)["m.homeserver"].(map[string]any)["base_url"]; got != base && got != base+"/" {
			t.Errorf("base_url is %v, want %s", got, base)
		}
		if got := c.ask("GET", "/_matrix/client/v1/auth_metadata", nil)["issuer"]; got != base+"/" && got != base {
			t.Errorf("the issuer is %v", got)
		}
	})
	t.Run("the person's address arrives", func(t *testing.T) {
		c := *c
		c.t = t
		devices := c.ask("GET", "/_matrix/client/v3/devices", nil)["devices"].([]any)
		if ip := devices[0].(map[string]any)["last_seen_ip"]; ip != "127.0.0.2" {
			t.Errorf("last_seen_ip is %v, want 127.0.0.2", ip)
		}
	})
	room := c.ask("POST", "/_matrix/client/v3/createRoom", map[string]string{"preset": "public_chat", "room_alias_name": "a/b"})["room_id"].(string)
	t.Run("escaped paths stay escaped", func(t *testing.T) {
		c := *c
		c.t = t
		if got := c.ask("GET", "/_matrix/client/v3/directory/room/"+url.PathEscape("#a/b:example.org"), nil)["room_id"]; got != room {
			t.Errorf("the alias leads to %v", got)
		}
	})
	t.Run("a long poll is answered when something happens", func(t *testing.T) {
		c := *c
		c.t = t
		since := c.ask("GET", "/_matrix/client/v3/sync?timeout=0", nil)["next_batch"].(string)
		type answer struct {
			out  map[string]any
			took time.Duration
		}
		done := make(chan answer, 1)
		begun := time.Now()
		go func() {
			status, raw, err := c.try("GET", "/_matrix/client/v3/sync?timeout=30000&since="+url.QueryEscape(since), "", nil)
			out := map[string]any{}
			json.Unmarshal(raw, &out)
			if err != nil || status != 200 {
				t.Errorf("%d %v", status, err)
			}
			done <- answer{out, time.Since(begun)}
		}()
		time.Sleep(time.Second) // the poll is waiting now, or it answers at once, which is as good
		c.ask("PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", map[string]string{"msgtype": "m.text", "body": "hello"})
		a := <-done
		if rooms, _ := a.out["rooms"].(map[string]any); rooms["join"] == nil {
			t.Errorf("the message is not in the answer: %v", a.out)
		}
	})
	t.Run("a large file passes", func(t *testing.T) {
		c := *c
		c.t = t
		file := make([]byte, 50<<20)
		rand.Read(file)
		status, raw, err := c.try("POST", "/_matrix/media/v3/upload?filename=large.bin", "application/octet-stream", bytes.NewReader(file))
		if err != nil || status != 200 {
			t.Fatalf("%d %v %.200s", status, err, raw)
		}
		var up struct {
			URI string `json:"content_uri"`
		}
		json.Unmarshal(raw, &up)
		status, back, err := c.try("GET", "/_matrix/client/v1/media/download/"+strings.TrimPrefix(up.URI, "mxc://"), "", nil)
		if err != nil || status != 200 || !bytes.Equal(back, file) {
			t.Errorf("%d %v, %d bytes came back", status, err, len(back))
		}
	})
	t.Run("a call's connection is opened", func(t *testing.T) {
		c := *c
		c.t = t
		openid := c.ask("POST", "/_matrix/client/v3/user/"+url.PathEscape(user)+"/openid/request_token", map[string]any{})
		got := c.ask("POST", "/livekit/jwt/sfu/get", map[string]any{"room": room, "openid_token": openid, "device_id": "D"})
		sfu, err := url.Parse(got["url"].(string))
		if err != nil || sfu.Scheme != "wss" || sfu.Host != fmt.Sprint("chat.example.org:", port) {
			t.Fatalf("the relay is at %v", got["url"])
		}
		conn, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", port), &tls.Config{RootCAs: roots, ServerName: "chat.example.org", NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(conn, "GET %s/rtc?access_token=%s&protocol=16&sdk=go HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
			strings.TrimSuffix(sfu.Path, "/"), got["jwt"], sfu.Host)
		head := make([]byte, 4096)
		n, err := conn.Read(head)
		if err != nil || !strings.HasPrefix(string(head[:n]), "HTTP/1.1 101 ") {
			t.Fatalf("%v: %q", err, head[:n])
		}
		// The relay speaks first.
		if n, err := conn.Read(head); err != nil || n == 0 {
			t.Errorf("nothing came through the open connection: %v", err)
		}
	})
}

// trustAnybody is for an authority that was made a moment ago.
func (c *client) trustAnybody() {
	c.http.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
}
