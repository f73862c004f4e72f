// Package config reads what the appliance must know before it can open its
// database: appliance.toml, HOLDFAST_... variables and --set options.
//
// Invariants: the annotated struct Config is the only list of keys; appliance.toml
// in the repository is generated from it; a later source overrides an earlier one
// (file, then environment, then --set); nothing that is unknown, of the wrong type
// or impossible in combination is accepted, and each complaint names the place it
// came from and what to do; secrets are never part of an error or of Print.
package config

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Config is the appliance's bootstrap configuration. Everything else is a setting
// in the database. The doc tags become the comments of appliance.toml.
type Config struct {
	ServerName string `toml:"server_name" doc:"The permanent name of this server: the part after the colon in @alice:example.org.\nAny valid server name, with or without a dot. It can never be changed once there is\nan account. Empty: the setup wizard asks for it; until then the host name stands in."`
	PublicURL  string `toml:"public_url" doc:"Where browsers and clients reach the appliance; also the OAuth issuer.\nEmpty: https:// and the server name."`
	Data       string `toml:"data" doc:"The folder with the database, media, keys and certificates."`

	Listen struct {
		HTTPS      string `toml:"https" doc:"HTTPS for browsers and clients."`
		HTTP       string `toml:"http" doc:"Plain HTTP, for a reverse proxy on this machine or for tests."`
		Redirect   string `toml:"redirect" doc:"Plain HTTP, usually :80, that only sends browsers on to listen.https and gives out\nthe own authority's certificate."`
		Federation string `toml:"federation" doc:"Other Matrix servers, usually :8448. It uses the same certificate."`
		Metrics    string `toml:"metrics" doc:"/metrics, /healthz and /readyz. Keep it on an address that only this machine reaches."`
	} `toml:"listen" doc:"Listeners, each IP:port or :port (all addresses). Empty is off."`

	TLS struct {
		Mode          string `toml:"mode" enum:"own-ca,files,acme,off" doc:"own-ca: a certificate authority of the appliance's own, made at the first start.\nfiles: the certificate and key below, read again when they change.\nacme: certificates from Let's Encrypt or another ACME authority; needs the Internet.\noff: no TLS here; a reverse proxy does it."`
		Cert          string `toml:"cert" doc:"Certificate chain in PEM, for mode files."`
		Key           string `toml:"key" doc:"Its private key in PEM, for mode files."`
		ACMEEmail     string `toml:"acme_email" doc:"Where the ACME authority writes to, for mode acme."`
		ACMEDirectory string `toml:"acme_directory" doc:"Directory URL of the ACME authority. Empty: Let's Encrypt."`
		ACMERoot      string `toml:"acme_root" doc:"Root certificate in PEM that the ACME authority's own server is checked with.\nEmpty: the system's."`
	} `toml:"tls"`

	Registration struct {
		Open         bool   `toml:"open" doc:"Anybody who reaches the server may make an account in one request (m.login.dummy)."`
		SharedSecret string `toml:"shared_secret" secret:"yes" doc:"Enables /_synapse/admin/v1/register, for scripts that know this secret."`
	} `toml:"registration"`

	Rooms struct {
		DefaultVersion  string `toml:"default_version" enum:"1,2,3,4,5,6,7,8,9,10,11,12" doc:"The version of new rooms whose client asks for none. In version 12 those who create a room\ncan never lose their power over it, and older clients do not know its room IDs."`
		Encryption      string `toml:"encryption" enum:"optional,private,all" doc:"Which new rooms are encrypted whether or not the client asks for it. optional: none.\nprivate: those that are not public from the start. all: every one. Spaces, and the rooms that\napplication services make, are left as they are."`
		PolicyServerKey string `toml:"policy_server_key" doc:"The ed25519 public key, in unpadded base64, of a Matrix policy server that goes by this\nserver's name. It is told at /.well-known/matrix/policy_server. Empty: there is none."`
	} `toml:"rooms"`

	Key struct {
		PassphraseFile string `toml:"passphrase_file" doc:"A file whose first line is the passphrase of the master key, where it is sealed under one\n(holdfast masterkey). It may be a pipe, as /dev/fd/3. Empty: systemd's credential\nholdfast.passphrase, or whoever starts it at a terminal is asked."`
		TPM            string `toml:"tpm" doc:"The TPM 2.0 chip: its device, or the socket of one in software. Empty: /dev/tpmrm0."`
	} `toml:"key"`

	Limits struct {
		Enabled bool `toml:"enabled" doc:"Limit how fast one device, user or address may do things. Off only for load tests."`
	} `toml:"limits"`

	Network struct {
		AllowPrivate bool `toml:"allow_private" doc:"Let the server itself make requests to loopback and private addresses\n(push gateways and other servers in your own network). Application services are\nreached wherever they are."`
	} `toml:"network"`

	Appservice struct {
		Dir string `toml:"dir" doc:"A folder of application service registrations (*.yaml)."`
	} `toml:"appservice"`

	SFU struct {
		Enabled         bool   `toml:"enabled" doc:"Audio and video calls."`
		UDPPort         int    `toml:"udp_port" min:"0" max:"65535" doc:"All media goes through this UDP port. 0: 7882, or a free one where that is taken."`
		TCPPort         int    `toml:"tcp_port" min:"0" max:"65535" doc:"For those whose network blocks UDP. 0: 7881, or a free one."`
		TURNPort        int    `toml:"turn_port" min:"0" max:"65535" doc:"The relay's own TURN server (UDP). 0: 3478, or a free one."`
		NodeIP          string `toml:"node_ip" doc:"The address that media is sent to, or several with commas. Empty: this machine's\naddresses; each client is told of the one that it came to."`
		MaxCalls        int    `toml:"max_calls" min:"0" max:"10000" doc:"How many calls may run at once. 0: as many as the machine carries."`
		MaxParticipants int    `toml:"max_participants" min:"0" max:"10000" doc:"How many people may be in one call. 0: as many as the machine carries."`
		MaxVideo        int    `toml:"max_video_kbps" min:"0" max:"100000" doc:"Bitrate limits in kbit/s, 0 for none, 100 or more. Of each camera's picture: larger sizes\nthan fit are not passed on; sound is never held back."`
		MaxScreen       int    `toml:"max_screen_kbps" min:"0" max:"100000" doc:"Of each shared screen. 1500 and more keep it readable."`
		MaxReceived     int    `toml:"max_received_kbps" min:"0" max:"1000000" doc:"Of all that one participant receives. Sound comes first, then shared screens, and the\ncameras share what is left."`
		AudioFirst      bool   `toml:"audio_first" doc:"Where a participant's line is too narrow for sound and even the smallest pictures, stop\nthe pictures for a while, so that people are understood."`
		Drain           int    `toml:"drain" min:"0" max:"3600" doc:"How many seconds calls may go on when the appliance is stopped, while nobody new is let\nin. Then, and with 0 at once, their clients connect again by themselves to what runs next."`

		RemoteServers string `toml:"remote_servers" doc:"Other Matrix servers, with commas between, whose users may be in the calls of rooms that\nthey are in. They are asked who their users are. Empty: none."`
		RemoteCA      string `toml:"remote_ca" doc:"A file with the certificate authorities of those servers in PEM form, beside the\nsystem's. Empty: only the system's."`

		Redis         string `toml:"redis" doc:"HOST:PORT of a Redis by which call relays on several machines work together\n(docs/calls.md). Empty: calls are held on this machine alone."`
		RedisUser     string `toml:"redis_user" doc:"The user at Redis. Empty: its default user."`
		RedisPassword string `toml:"redis_password" secret:"yes" doc:"The password at Redis, which must have one."`
		RedisTLS      bool   `toml:"redis_tls" doc:"Talk TLS with Redis."`
		RedisCA       string `toml:"redis_ca" doc:"A file with the certificate authority of Redis in PEM form. Empty: the system's."`
		ClusterKey    string `toml:"cluster_key" secret:"yes" doc:"What the relays of a cluster know each other by, at least 32 characters:\nthe same on the appliance and on each node (holdfast sfu)."`
	} `toml:"sfu"`

	Log struct {
		Level      string `toml:"level" enum:"debug,info,warn,error" doc:"What is logged: debug, info, warn or error."`
		Format     string `toml:"format" enum:"text,json" doc:"text or json."`
		Appliance  string `toml:"appliance" enum:",debug,info,warn,error" doc:"The level of one component, where it differs from level."`
		HTTP       string `toml:"http" enum:",debug,info,warn,error" doc:"Each request is logged at level debug."`
		Store      string `toml:"store" enum:",debug,info,warn,error"`
		Homeserver string `toml:"homeserver" enum:",debug,info,warn,error"`
		Identity   string `toml:"identity" enum:",debug,info,warn,error"`
		SFU        string `toml:"sfu" enum:",debug,info,warn,error"`
		Web        string `toml:"web" enum:",debug,info,warn,error"`
	} `toml:"log"`

	// CallsKept is how long a call that everybody left may be come back to; 0: as long
	// as the relay does by itself. It is no setting: tests have less time.
	CallsKept time.Duration

	// Ignored are HOLDFAST_ variables that are no settings.
	Ignored []string

	sources map[string]Source
}

// Default is the configuration of an empty appliance.toml.
func Default() *Config {
	c := &Config{Data: "/var/lib/holdfast", sources: map[string]Source{}}
	c.Listen.HTTPS = ":443"
	c.Listen.Metrics = "127.0.0.1:9464"
	c.TLS.Mode = "own-ca"
	c.Rooms.DefaultVersion = "11"
	c.Rooms.Encryption = "optional"
	c.Limits.Enabled = true
	c.SFU.Enabled = true
	c.SFU.AudioFirst = true
	c.Log.Level = "info"
	c.Log.Format = "text"
	return c
}

// Source is where a value came from.
type Source struct {
	Name string // file name, HOLDFAST_ variable, or "--set"
	Line int    // in a file; 0 otherwise
}

func (s Source) String() string {
	switch {
	case s.Name == "":
		return "default"
	case s.Line > 0:
		return s.Name + ":" + strconv.Itoa(s.Line)
	}
	return s.Name
}

// Source tells where the value of key came from; the zero Source is the default.
func (c *Config) Source(key string) Source { return c.sources[key] }

// Explicit reports whether somebody set key.
func (c *Config) Explicit(key string) bool { return c.sources[key].Name != "" }

// Level is the log level of a component ("homeserver").
func (c *Config) Level(component string) slog.Level {
	name := c.Log.Level
	for _, f := range fields {
		if f.key == "log."+component && component != "level" && component != "format" {
			if v := f.get(c).String(); v != "" {
				name = v
			}
		}
	}
	var l slog.Level
	if l.UnmarshalText([]byte(name)) != nil {
		return slog.LevelInfo
	}
	return l
}

// field is one key of the configuration.
type field struct {
	key    string // "listen.https"
	doc    string
	group  string // doc of the table it stands in
	enum   []string
	min    int
	max    int
	secret bool
	index  []int
	kind   reflect.Kind
}

func (f field) get(c *Config) reflect.Value { return reflect.ValueOf(c).Elem().FieldByIndex(f.index) }

var (
	fields = collect(reflect.TypeFor[Config](), "", "", nil)
	byKey  = func() map[string]field {
		m := map[string]field{}
		for _, f := range fields {
			m[f.key] = f
		}
		return m
	}()
)

func collect(t reflect.Type, prefix, group string, index []int) (out []field) {
	for i := range t.NumField() {
		sf := t.Field(i)
		name := sf.Tag.Get("toml")
		if name == "" {
			continue
		}
		at := append(index[:len(index):len(index)], i)
		if sf.Type.Kind() == reflect.Struct {
			out = append(out, collect(sf.Type, prefix+name+".", sf.Tag.Get("doc"), at)...)
			continue
		}
		f := field{key: prefix + name, doc: sf.Tag.Get("doc"), group: group, secret: sf.Tag.Get("secret") != "", index: at, kind: sf.Type.Kind()}
		if e, ok := sf.Tag.Lookup("enum"); ok {
			f.enum = strings.Split(e, ",")
		}
		f.min, _ = strconv.Atoi(sf.Tag.Get("min"))
		f.max, _ = strconv.Atoi(sf.Tag.Get("max"))
		out = append(out, f)
	}
	return out
}

// Error is one complaint about the configuration.
type Error struct {
	Source Source
	Key    string
	Msg    string // what is wrong and what to do
}

func (e *Error) Error() string {
	where := ""
	if e.Source.Name != "" { // a default is nowhere
		where = e.Source.String() + ": "
	}
	if e.Key == "" {
		return where + e.Msg
	}
	return fmt.Sprintf("%s%s: %s", where, e.Key, e.Msg)
}

func (c *Config) complain(key, format string, args ...any) *Error {
	return &Error{Source: c.Source(key), Key: key, Msg: fmt.Sprintf(format, args...)}
}

// set stores one value, of the type TOML or a text source gave it.
func (c *Config) set(f field, value any, src Source) *Error {
	v := f.get(c)
	bad := func(format string, args ...any) *Error {
		return &Error{Source: src, Key: f.key, Msg: fmt.Sprintf(format, args...)}
	}
	switch f.kind {
	case reflect.String:
		s, ok := value.(string)
		if !ok {
			return bad("this must be text in quotes, not %s", typeName(value))
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return bad("this contains a control character; remove it")
		}
		if f.enum != nil {
			known := false
			for _, e := range f.enum {
				known = known || e == s
			}
			if !known {
				return bad("%q is not possible; write one of: %s", s, strings.Join(nonEmpty(f.enum), ", "))
			}
		}
		v.SetString(s)
	case reflect.Bool:
		b, ok := value.(bool)
		if s, isText := value.(string); isText && src.Line == 0 {
			var err error
			b, err = strconv.ParseBool(s)
			ok = err == nil
		}
		if !ok {
			return bad("this must be true or false, without quotes")
		}
		v.SetBool(b)
	case reflect.Int:
		n, ok := value.(int64)
		if s, isText := value.(string); isText && src.Line == 0 {
			var err error
			n, err = strconv.ParseInt(s, 10, 64)
			ok = err == nil
		}
		if !ok {
			return bad("this must be a whole number, without quotes")
		}
		if n < int64(f.min) || n > int64(f.max) {
			return bad("this must be between %d and %d", f.min, f.max)
		}
		v.SetInt(n)
	}
	c.sources[f.key] = src
	return nil
}

func nonEmpty(list []string) (out []string) {
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

func typeName(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case int64:
		return "a number"
	case float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date"
}

// check finds impossible combinations, after all sources were read.
func (c *Config) check() (errs []error) {
	add := func(key, format string, args ...any) { errs = append(errs, c.complain(key, format, args...)) }

	if c.ServerName != "" {
		if why := serverNameProblem(c.ServerName); why != "" {
			add("server_name", "%q is not a valid server name: %s", c.ServerName, why)
		}
	}
	if c.Data == "" {
		add("data", "name a folder, such as /var/lib/holdfast")
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		switch {
		case err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "":
			add("public_url", "%q is not a web address; write for example https://chat.example.org", c.PublicURL)
		case u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/"):
			add("public_url", "%q must be only scheme, host and port, such as https://chat.example.org:8443", c.PublicURL)
		default:
			c.PublicURL = u.Scheme + "://" + strings.ToLower(u.Host)
		}
	}

	if k := c.Rooms.PolicyServerKey; k != "" {
		if b, err := base64.RawStdEncoding.Strict().DecodeString(k); err != nil || len(b) != ed25519.PublicKeySize {
			add("rooms.policy_server_key", "this is no ed25519 public key in unpadded base64, which has 43 letters, digits, + and /")
		}
	}

	if c.TLS.Mode == "off" {
		if c.Explicit("listen.https") && c.Listen.HTTPS != "" {
			add("listen.https", "tls.mode is off (%s), so there can be no HTTPS listener; set listen.https to \"\" or choose another tls.mode", c.Source("tls.mode"))
		} else {
			c.Listen.HTTPS = ""
		}
	}
	type open struct{ key, host, port string }
	var seen []open
	for _, l := range []struct{ key, addr string }{
		{"listen.https", c.Listen.HTTPS}, {"listen.http", c.Listen.HTTP},
		{"listen.redirect", c.Listen.Redirect},
		{"listen.federation", c.Listen.Federation}, {"listen.metrics", c.Listen.Metrics},
	} {
		if l.addr == "" {
			continue
		}
		if why := listenProblem(l.addr); why != "" {
			add(l.key, "%q: %s", l.addr, why)
			continue
		}
		o := open{key: l.key}
		o.host, o.port, _ = net.SplitHostPort(l.addr)
		for _, other := range seen {
			if o.port != "0" && o.port == other.port && sameAddress(o.host, other.host) {
				add(l.key, "%s is taken by %s (%s); give each listener its own address, or \"\" to switch one off", l.addr, other.key, c.Source(other.key))
				break
			}
		}
		seen = append(seen, o)
	}
	if c.SFU.Enabled {
		if c.SFU.UDPPort != 0 && c.SFU.UDPPort == c.SFU.TURNPort {
			add("sfu.turn_port", "%d is taken by sfu.udp_port (%s); both are UDP, so give each its own", c.SFU.TURNPort, c.Source("sfu.udp_port"))
		}
		for _, o := range seen {
			if c.SFU.TCPPort != 0 && strconv.Itoa(c.SFU.TCPPort) == o.port {
				add("sfu.tcp_port", "%d is taken by %s (%s); choose another", c.SFU.TCPPort, o.key, c.Source(o.key))
			}
		}
	}
	if c.Listen.Redirect != "" && c.Listen.HTTPS == "" {
		add("listen.redirect", "there is no listen.https to send browsers to; set one, or listen.redirect to \"\"")
	}
	if c.Listen.HTTPS == "" && c.Listen.HTTP == "" && len(errs) == 0 {
		add("listen.http", "there is no listener for clients; set listen.https, or listen.http where a reverse proxy does TLS")
	}

	if c.TLS.Mode == "files" {
		if c.TLS.Cert == "" {
			errs = append(errs, &Error{c.Source("tls.mode"), "tls.cert", "tls.mode is files, so name the file with the certificate chain"})
		}
		if c.TLS.Key == "" {
			errs = append(errs, &Error{c.Source("tls.mode"), "tls.key", "tls.mode is files, so name the file with the private key"})
		}
	} else {
		for key, v := range map[string]string{"tls.cert": c.TLS.Cert, "tls.key": c.TLS.Key} {
			if v != "" {
				add(key, "this is only used with tls.mode = \"files\", but the mode is %s; change the mode or remove this", c.TLS.Mode)
			}
		}
	}
	if c.TLS.Mode == "acme" {
		name := c.PublicHost()
		if name == "" {
			add("tls.mode", "acme needs a name to get a certificate for; set server_name or public_url")
		} else if _, err := netip.ParseAddr(name); err == nil || !strings.Contains(name, ".") {
			add("tls.mode", "no public authority gives a certificate for %q; use own-ca or files, or a public_url with a registered domain name", name)
		}
	}
	if c.SFU.Redis != "" {
		if _, _, err := net.SplitHostPort(c.SFU.Redis); err != nil {
			add("sfu.redis", "%q is not HOST:PORT; write for example 192.168.1.5:6379", c.SFU.Redis)
		}
		if c.SFU.RedisPassword == "" {
			add("sfu.redis_password", "a Redis without a password would let anybody who reaches it into calls; set one there (requirepass) and here")
		}
		if len(c.SFU.ClusterKey) < 32 {
			add("sfu.cluster_key", "a key of at least 32 characters is needed with sfu.redis, the same on all machines; make one with: openssl rand -base64 36")
		}
		if c.SFU.RedisCA != "" && !c.SFU.RedisTLS {
			add("sfu.redis_ca", "it is only used with sfu.redis_tls = true; set that, or remove this")
		}
	} else {
		for key, set := range map[string]bool{"sfu.redis_user": c.SFU.RedisUser != "", "sfu.redis_password": c.SFU.RedisPassword != "", "sfu.redis_tls": c.SFU.RedisTLS, "sfu.redis_ca": c.SFU.RedisCA != "", "sfu.cluster_key": c.SFU.ClusterKey != ""} {
			if set {
				add(key, "it is only used with sfu.redis; set that, or remove this")
			}
		}
	}
	for _, name := range c.CallServers() {
		if why := serverNameProblem(name); why != "" {
			add("sfu.remote_servers", "%q is not a valid server name: %s", name, why)
		}
	}
	if c.SFU.RemoteCA != "" && c.SFU.RemoteServers == "" {
		add("sfu.remote_ca", "it is only used with sfu.remote_servers; set that, or remove this")
	}
	if c.SFU.MaxParticipants == 1 {
		add("sfu.max_participants", "nobody calls alone; write 2 or more, or 0 for no limit")
	}
	for name, v := range map[string]int{"sfu.max_video_kbps": c.SFU.MaxVideo, "sfu.max_screen_kbps": c.SFU.MaxScreen, "sfu.max_received_kbps": c.SFU.MaxReceived} {
		if v > 0 && v < 100 {
			add(name, "%d kbit/s are too little for any picture; write 100 or more, or 0 for no limit", v)
		}
	}
	if c.SFU.NodeIP != "" {
		for part := range strings.SplitSeq(c.SFU.NodeIP, ",") {
			if _, err := netip.ParseAddr(strings.TrimSpace(part)); err != nil {
				add("sfu.node_ip", "%q is not an IP address; write one, or several with commas between", strings.TrimSpace(part))
			}
		}
	}
	return errs
}

// CallServers are the other servers whose users may be in calls.
func (c *Config) CallServers() (out []string) {
	for part := range strings.SplitSeq(c.SFU.RemoteServers, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// PublicHost is the host name in public_url, or of server_name; "" if neither is set.
func (c *Config) PublicHost() string {
	if u, err := url.Parse(c.PublicURL); c.PublicURL != "" && err == nil {
		return u.Hostname()
	}
	return Host(c.ServerName)
}

// Host is a server name without its port and brackets.
func Host(serverName string) string {
	if h, _, err := net.SplitHostPort(serverName); err == nil {
		return h
	}
	return strings.Trim(serverName, "[]")
}

// sameAddress reports whether two hosts of listeners cannot both have one port: they
// are the same, or one of them is all addresses.
func sameAddress(a, b string) bool {
	all := func(h string) bool { ip, err := netip.ParseAddr(h); return h == "" || err == nil && ip.IsUnspecified() }
	if all(a) || all(b) {
		return true
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x.Unmap() == y.Unmap()
}

func listenProblem(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "write IP:port or :port, for example 127.0.0.1:8008 or :443"
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			if host == "localhost" {
				return "write the IP address: 127.0.0.1:" + port
			}
			return "the part before the port must be an IP address of this machine, or empty for all"
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "the port must be a number up to 65535"
	}
	return ""
}

// ValidServerName says what is wrong with a server name, or "".
// Spec: appendices#server-name
func ValidServerName(name string) string { return serverNameProblem(name) }

func serverNameProblem(name string) string {
	if len(name) > 230 {
		return "it is longer than 230 characters"
	}
	host, port := name, ""
	if strings.HasPrefix(name, "[") {
		end := strings.IndexByte(name, ']')
		if end < 0 {
			return "the bracket is not closed"
		}
		a, err := netip.ParseAddr(name[1:end])
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "what is in brackets must be an IPv6 address"
		}
		host, port = "", name[end+1:]
	} else if i := strings.IndexByte(name, ':'); i >= 0 {
		host, port = name[:i], name[i:]
		if host == "" {
			return "the host is missing"
		}
	} else if name == "" {
		return "it is empty"
	}
	if port != "" {
		n, err := strconv.ParseUint(port[1:], 10, 16)
		if port[0] != ':' || err != nil || n == 0 {
			return "what follows the colon must be a port number"
		}
	}
	for _, r := range host {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.':
		default:
			return fmt.Sprintf("%q may not be in it; letters, digits, dots and hyphens may", string(r))
		}
	}
	if strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") || strings.Contains(host, "..") ||
		strings.HasPrefix(host, "-") || strings.HasSuffix(host, "-") {
		return "a dot or hyphen stands where it may not"
	}
	return ""
}
