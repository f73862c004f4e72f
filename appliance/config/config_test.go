package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

func TestTemplateIsApplianceTOML(t *testing.T) {
	var b bytes.Buffer
	if err := Template(&b); err != nil {
		t.Fatal(err)
	}
	const golden = "../../appliance.toml"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, b.Bytes()) {
		t.Fatal("appliance.toml is not what the structs say; run: go test ./appliance/config -update")
	}
}

// Every line of the template must be true: taking its # away changes nothing.
func TestTemplateIsTheDefault(t *testing.T) {
	var b bytes.Buffer
	Template(&b)
	var text strings.Builder
	for line := range strings.SplitSeq(b.String(), "\n") {
		if strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# ") && len(line) > 1 {
			line = line[1:]
		}
		text.WriteString(line + "\n")
	}
	c, err := load(t, text.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, text.String())
	}
	def := Default()
	for _, f := range fields {
		if got, want := f.get(c).Interface(), f.get(def).Interface(); got != want {
			t.Errorf("%s is %v, the default is %v", f.key, got, want)
		}
		if !c.Explicit(f.key) {
			t.Errorf("%s is not in the template", f.key)
		}
	}
}

func load(t testing.TB, file string, set ...string) (*Config, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "appliance.toml")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Input{File: name, Set: set})
}

func TestPrecedence(t *testing.T) {
	name := filepath.Join(t.TempDir(), "appliance.toml")
	os.WriteFile(name, []byte("server_name = \"file\"\n[listen]\nhttp = \"127.0.0.1:1\"\nmetrics = \"\"\n"), 0o600)
	c, err := Load(Input{File: name, Data: "/d",
		Env: []string{"PATH=/bin", "HOLDFAST_LISTEN_HTTP=127.0.0.1:2", "HOLDFAST_SERVER_NAME=env", "HOLDFAST_LIMITS_ENABLED=false", "HOLDFAST_SFU_UDP_PORT=5"},
		Set: []string{"server_name=set", "registration.shared_secret=a=b"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.ServerName != "set" || c.Listen.HTTP != "127.0.0.1:2" || c.Listen.Metrics != "" || c.Data != "/d" || c.Limits.Enabled || c.SFU.UDPPort != 5 || c.Registration.SharedSecret != "a=b" {
		t.Fatalf("%+v", c)
	}
	if s := c.Source("listen.metrics"); s.Line != 4 || s.Name != name {
		t.Errorf("source %v", s)
	}
	if s := c.Source("listen.http").String(); s != "HOLDFAST_LISTEN_HTTP" {
		t.Error(s)
	}
}

func TestDataFolderHasTheFile(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "appliance.toml"), []byte("server_name = \"a.b\"\n"), 0o600)
	c, err := Load(Input{Data: dir})
	if err != nil || c.ServerName != "a.b" {
		t.Fatal(err)
	}
}

// What is refused, with the line and what to do.
func TestRefused(t *testing.T) {
	const pem = "[tls]\nmode = \"files\"\ncert = \"c\"\nkey = \"k\"\n"
	for _, c := range []struct {
		name, file string
		set        []string
		want       []string
	}{
		{"misspelt key", "\n[listen]\nhtps = \":443\"\n", nil, []string{".toml:3: listen.htps", "did you mean listen.https?"}},
		{"misspelt table", "[listn]\nhttps = \":443\"\n", nil, []string{".toml:2: listn.https", "did you mean listen.https?"}},
		{"table forgotten", "https = \":443\"\n", nil, []string{".toml:1: https", "did you mean listen.https?"}},
		{"inline table", "x = 1\ntls = {mod = \"off\"}\n", nil, []string{".toml:2: tls.mod", "did you mean tls.mode?"}},
		{"no table", "tls = \"off\"\n", nil, []string{".toml:1: tls", "[tls]"}},
		{"wrong type", "[limits]\nenabled = \"no\"\n", nil, []string{".toml:2: limits.enabled", "true or false, without quotes"}},
		{"number as text", "[sfu]\nudp_port = \"7882\"\n", nil, []string{".toml:2: sfu.udp_port", "without quotes"}},
		{"text as number", "server_name = 5\n", nil, []string{".toml:1: server_name", "text in quotes, not a number"}},
		{"out of range", "[sfu]\ntcp_port = 70000\n", nil, []string{".toml:2: sfu.tcp_port", "between 0 and 65535"}},
		{"two at once", "a = 1\nserver_name = 1\n", nil, []string{".toml:1: a", ".toml:2: server_name"}},
		{"not TOML", "server_name = \"a\"\nb = \n", nil, []string{".toml:2", "not valid TOML"}},
		{"twice", "data = \"a\"\ndata = \"b\"\n", nil, []string{".toml:2", "not valid TOML"}},
		{"mode", "[tls]\nmode = \"letsencrypt\"\n", nil, []string{".toml:2: tls.mode", "own-ca, files, acme, off"}},
		{"room version", "[rooms]\ndefault_version = \"13\"\n", nil, []string{".toml:2: rooms.default_version", "10, 11, 12"}},
		{"files without key", "[tls]\nmode = \"files\"\ncert = \"c\"\n", nil, []string{".toml:2: tls.key"}},
		{"cert without files", "[tls]\ncert = \"c\"\n", nil, []string{".toml:2: tls.cert", "own-ca"}},
		{"https without TLS", "[tls]\nmode = \"off\"\n[listen]\nhttps = \":443\"\n", nil, []string{".toml:4: listen.https", "tls.mode is off"}},
		{"no listener", "[listen]\nhttps = \"\"\n", nil, []string{"listen.http", "no listener"}},
		{"same address", "[listen]\nhttps = \":443\"\nhttp = \":443\"\n", nil, []string{"listen.http", "taken by listen.https"}},
		{"all addresses and one", "[listen]\nhttp = \"127.0.0.1:80\"\nfederation = \":80\"\n", nil, []string{".toml:3: listen.federation", "taken by listen.http"}},
		{"all addresses twice", "[listen]\nhttp = \"0.0.0.0:80\"\nfederation = \"[::]:80\"\n", nil, []string{".toml:3: listen.federation", "taken by listen.http"}},
		{"one UDP port for two", "[sfu]\nudp_port = 5000\nturn_port = 5000\n", nil, []string{".toml:3: sfu.turn_port", "taken by sfu.udp_port"}},
		{"a TCP port for two", "[listen]\nhttps = \":5000\"\n[sfu]\ntcp_port = 5000\n", nil, []string{".toml:4: sfu.tcp_port", "taken by listen.https"}},
		{"host as listener", "[listen]\nhttp = \"localhost:80\"\n", nil, []string{"127.0.0.1:80"}},
		{"no port", "[listen]\nhttp = \"127.0.0.1\"\n", nil, []string{"IP:port"}},
		{"acme without a name", "[tls]\nmode = \"acme\"\n", nil, []string{"tls.mode", "server_name or public_url"}},
		{"acme with an address", "server_name = \"10.0.0.1\"\n[tls]\nmode = \"acme\"\n", nil, []string{"no public authority"}},
		{"bad name", "server_name = \"a b\"\n", nil, []string{".toml:1: server_name", "may not be in it"}},
		{"bad URL", "public_url = \"chat.example.org\"\n", nil, []string{".toml:1: public_url", "https://chat.example.org"}},
		{"no key", "[rooms]\npolicy_server_key = \"6yhHGKhCiXTSEN2ksjV7kX\"\n", nil, []string{".toml:2: rooms.policy_server_key", "43 letters"}},
		{"URL with a path", "public_url = \"https://a.b/chat\"\n", nil, []string{"only scheme, host and port"}},
		{"--set unknown", "", []string{"lsten.http=:1"}, []string{"--set: lsten.http", "did you mean listen.http?"}},
		{"--set type", "", []string{"limits.enabled=maybe"}, []string{"--set: limits.enabled"}},
		{"--set without value", "", []string{"data"}, []string{"--set data=VALUE"}},
		{"Redis without a port", "[sfu]\nredis = \"redis\"\nredis_password = \"x\"\ncluster_key = \"0123456789012345678901234567890123\"\n", nil, []string{".toml:2: sfu.redis", "HOST:PORT"}},
		{"Redis without a password", "[sfu]\nredis = \"redis:6379\"\ncluster_key = \"0123456789012345678901234567890123\"\n", nil, []string{"sfu.redis_password", "requirepass"}},
		{"Redis without a key", "[sfu]\nredis = \"redis:6379\"\nredis_password = \"x\"\n", nil, []string{"sfu.cluster_key", "at least 32"}},
		{"a key without Redis", "[sfu]\ncluster_key = \"0123456789012345678901234567890123\"\n", nil, []string{".toml:2: sfu.cluster_key", "sfu.redis"}},
		{"a bitrate without a picture", "[sfu]\nmax_screen_kbps = 99\n", nil, []string{".toml:2: sfu.max_screen_kbps", "too little"}},
		{"a bitrate below zero", "[sfu]\nmax_video_kbps = -1\n", nil, []string{".toml:2: sfu.max_video_kbps", "between 0 and 100000"}},
		{"node IP", "[sfu]\nnode_ip = \"host\"\n", nil, []string{".toml:2: sfu.node_ip"}},
		{"files and off", pem, []string{"tls.mode=off"}, []string{"tls.cert", "files"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.file, c.set...)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
		})
	}
}

func TestUnknownVariables(t *testing.T) {
	for _, v := range []struct{ name, want string }{
		{"HOLDFAST_TLS_MOD=off", "HOLDFAST_TLS_MODE?"},
		{"HOLDFAST_LISTEN_PORT=1", "HOLDFAST_LISTEN_PORT"},
		{"HOLDFAST_SERVERNAME=x", "HOLDFAST_SERVER_NAME?"},
	} {
		if _, err := Load(Input{Data: t.TempDir(), Env: []string{v.name}}); err == nil || !strings.Contains(err.Error(), v.want) {
			t.Errorf("%s: %v", v.name, err)
		}
	}
	c, err := Load(Input{Data: t.TempDir(), Env: []string{"HOLDFAST_BIN=/x", "HOLDFAST_SERVICE_HOST=1.2.3.4", "HOLDFAST_PORT_443_TCP=x", "HOLDFAST_URL=y"}})
	if err != nil || len(c.Ignored) != 4 {
		t.Errorf("%v %v", c, err)
	}
}

func TestOffNeedsNoHTTPS(t *testing.T) {
	c, err := Load(Input{Set: []string{"tls.mode=off", "listen.http=127.0.0.1:8008"}})
	if err != nil || c.Listen.HTTPS != "" {
		t.Fatal(c, err)
	}
}

func TestListenersThatDoNotMeet(t *testing.T) {
	for _, set := range [][]string{
		{"listen.http=127.0.0.1:80", "listen.federation=127.0.0.2:80"},
		{"listen.http=127.0.0.1:0", "listen.federation=127.0.0.1:0"},
		{"listen.http=127.0.0.1:80", "listen.federation=[::1]:80"},
		{"sfu.enabled=false", "sfu.udp_port=5000", "sfu.turn_port=5000"},
		{"sfu.udp_port=5000", "sfu.tcp_port=5000"}, // UDP and TCP
	} {
		if _, err := load(t, "", set...); err != nil {
			t.Errorf("%v: %v", set, err)
		}
	}
}

func TestServerNames(t *testing.T) {
	for _, s := range []string{"localhost", "hs1", "a.b", "a.b:8448", "10.0.0.1", "10.0.0.1:80", "[::1]", "[2001:db8::1]:8448", "xn--bcher-kva.example", "Example.ORG"} {
		if why := ValidServerName(s); why != "" {
			t.Errorf("%q: %s", s, why)
		}
	}
	for _, s := range []string{"", "a b", "a_b", "ü.de", "::1", "[::1", "[1.2.3.4]", "a:", "a:b", "a:70000", "a:0", ":80", ".a", "a..b", "-a", strings.Repeat("a", 231), "[::1]80", "[fe80::1%eth0]"} {
		if ValidServerName(s) == "" {
			t.Errorf("%q should be refused", s)
		}
	}
}

func TestPrintIsReadAgain(t *testing.T) {
	c, err := load(t, "server_name = \"a.b\"\n[registration]\nshared_secret = \"geheim\"\n[listen]\nhttp = \"127.0.0.1:80\"\n", `appservice.dir=C:\x "y"`)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	c.Print(&b)
	if strings.Contains(b.String(), "geheim") {
		t.Fatal("a secret was printed")
	}
	again, err := load(t, b.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	for _, f := range fields {
		if !f.secret && f.get(c).Interface() != f.get(again).Interface() {
			t.Errorf("%s: %v, then %v", f.key, f.get(c), f.get(again))
		}
	}
}

func TestSecretsStayOutOfErrors(t *testing.T) {
	_, err := load(t, "[registration]\nshared_secret = \"gehe\\u0001im\"\n")
	if err == nil || strings.Contains(err.Error(), "gehe") {
		t.Fatal(err)
	}
}

func FuzzApply(f *testing.F) {
	var b bytes.Buffer
	Template(&b)
	f.Add(b.Bytes())
	f.Add([]byte("[listen]\nhttps = \":443\"\n[[tls]]\nmode=1"))
	f.Add([]byte("a.b.c = {d = [1, {e = 2}]}\n\"x\\ny\" = 1979-05-27"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := Default()
		errs := c.apply("f", in)
		for _, err := range errs {
			if err.Error() == "" || err.(*Error).Source.Name != "f" {
				t.Fatalf("%#v", err)
			}
		}
		if len(errs) > 0 {
			return
		}
		if len(c.check()) > 0 {
			return
		}
		var out bytes.Buffer
		c.Print(&out)
		again := Default()
		if errs := again.apply("f", out.Bytes()); len(errs) > 0 {
			t.Fatalf("what is printed is refused: %v\n%s", errs, out.String())
		}
	})
}
