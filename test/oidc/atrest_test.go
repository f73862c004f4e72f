package oidc

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"holdfast/identity/opstore"
	"holdfast/identity/saml/samltest"
	"holdfast/store/sealed"
	"holdfast/test/need"
)

// keeper fills an appliance of its own with secrets and knows their values.
type keeper struct {
	t       *testing.T
	p       *program
	data    string
	token   string            // access token of alice, who administers
	secrets map[string]string // by what they are
	logs    []byte
	yaml    string // of the application service
	others  string // where other servers ask

	cards  []card
	keyID  string // of the server's signing key
	public []byte
}

// card is a printed invite.
type card struct{ code, pin string }

func newKeeper(t *testing.T) *keeper {
	k := &keeper{t: t, data: filepath.Join(t.TempDir(), "data"), secrets: map[string]string{}}
	k.start()
	t.Cleanup(func() { k.p.stop() })
	return k
}

func (k *keeper) start(set ...string) {
	k.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		k.t.Fatal(err)
	}
	k.others = free.Addr().String()
	free.Close()
	if k.p, err = start(k.data, "rest.test", append([]string{"registration.open=true", "listen.federation=" + k.others}, set...)...); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeper) stop() {
	k.t.Helper()
	if err := k.p.stop(); err != nil {
		k.t.Fatal(err)
	}
	k.logs = append(k.logs, k.p.log.Bytes()...)
}

// cli runs a command, with the given standard input.
func (k *keeper) cli(stdin string, args ...string) []byte {
	k.t.Helper()
	out, e, err := k.try(stdin, args...)
	if err != nil {
		k.t.Fatalf("holdfast %v: %v\n%s", args, err, e)
	}
	return out
}

func (k *keeper) try(stdin string, args ...string) (out, errOut []byte, err error) {
	cmd := exec.Command(theBinary, append(args, "--data", k.data)...)
	cmd.Stdin = strings.NewReader(stdin)
	var e bytes.Buffer
	cmd.Stderr = &e
	out, err = cmd.Output()
	return out, e.Bytes(), err
}

// know takes a value that must not be found.
func (k *keeper) know(what, value string) {
	k.t.Helper()
	if len(value) < 8 {
		k.t.Fatalf("%s is %q: too short to look for", what, value)
	}
	k.secrets[what] = value
}

// ask makes a request at the Matrix API and gives the answer, which must be a 200.
func (k *keeper) ask(method, path string, in any) map[string]any {
	k.t.Helper()
	status, out := k.send(method, path, in)
	if status != 200 {
		k.t.Fatalf("%s %s: %d %v", method, path, status, out)
	}
	return out
}

func (k *keeper) send(method, path string, in any) (status int, out map[string]any) {
	k.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		k.t.Fatal(err)
	}
	req, _ := http.NewRequest(method, k.p.issuer+path, bytes.NewReader(body))
	if k.token != "" {
		req.Header.Set("Authorization", "Bearer "+k.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	json.Unmarshal(raw, &out)
	return resp.StatusCode, out
}

func text(m map[string]any, key string) string { s, _ := m[key].(string); return s }

const (
	restPassword = "correct horse of the keeper"
	asToken      = "as-token-0123456789abcdef"
	hsToken      = "hs-token-0123456789abcdef"
	pushkey      = "https://push.example.net/upPushkeyOfAlice01"
	topic        = "upTopicOfAlice01"
	gateway      = "https://push.example.net/_matrix/push/v1/notify"
)

// fill makes every kind of secret that the API and the command line give or take.
func (k *keeper) fill() {
	k.t.Helper()
	k.cli(restPassword+"\n", "user", "add", "alice", "--admin", "--password-stdin")
	k.know("password", restPassword)
	login := func(refresh bool) map[string]any {
		return k.ask("POST", "/_matrix/client/v3/login", map[string]any{"type": "m.login.password", "refresh_token": refresh,
			"identifier": map[string]string{"type": "m.id.user", "user": "alice"}, "password": restPassword})
	}
	old := login(true)
	k.know("refresh token", text(old, "refresh_token"))
	k.know("access token that expires", text(old, "access_token"))
	k.know("next refresh token", text(k.ask("POST", "/_matrix/client/v3/refresh", map[string]any{"refresh_token": k.secrets["refresh token"]}), "refresh_token"))
	k.token = text(login(false), "access_token")
	k.know("access token", k.token)

	const admin = "/_synapse/admin/v1"
	k.know("registration token", text(k.ask("POST", admin+"/registration_tokens/new", map[string]any{"token": "WelcomeToTheHall-2026", "uses_allowed": 3}), "token"))
	k.know("long registration token", text(k.ask("POST", admin+"/registration_tokens/new", map[string]any{"length": 64}), "token"))
	k.know("OpenID token", text(k.ask("POST", "/_matrix/client/v3/user/@alice:rest.test/openid/request_token", map[string]any{}), "access_token"))
	_, confirm := k.send("POST", "/_matrix/client/v1/login/get_token", map[string]any{})
	k.know("login token", text(k.ask("POST", "/_matrix/client/v1/login/get_token", map[string]any{"auth": map[string]any{"type": "m.login.password", "session": text(confirm, "session"),
		"identifier": map[string]string{"type": "m.id.user", "user": "alice"}, "password": restPassword}}), "login_token"))

	room := text(k.ask("POST", "/_matrix/client/v3/createRoom", map[string]any{}), "room_id")
	k.know("ID of a delayed event", text(k.ask("PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/1?org.matrix.msc4140.delay=600000",
		map[string]any{"msgtype": "m.text", "body": "later"}), "delay_id"))

	data := map[string]any{"url": gateway, "token": "data-of-a-pusher-01"}
	k.ask("POST", "/_matrix/client/v3/pushers/set", map[string]any{"kind": "http", "app_id": "org.example", "pushkey": pushkey, "app_display_name": "App",
		"device_display_name": "Phone", "lang": "en", "data": data})
	k.know("pushkey", pushkey)
	k.know("data of a pusher", "data-of-a-pusher-01")
	var phone struct {
		Password string `json:"password"`
	}
	k.json(&phone, "", "push", "add", "alice", "--json")
	k.know("password of a phone", phone.Password)
	req, _ := http.NewRequest("GET", k.p.issuer+"/"+topic+"/json?poll=1", nil)
	req.Header.Set("Authorization", "Bearer "+phone.Password)
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != 200 {
		k.t.Fatalf("%v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	k.know("topic", topic)

	yaml := filepath.Join(k.t.TempDir(), "bridge.yaml")
	k.yaml = "id: bridge\nurl: \"\"\nas_token: " + asToken + "\nhs_token: " + hsToken + "\nsender_localpart: bridge\nnamespaces: {}\n"
	if err := os.WriteFile(yaml, []byte(k.yaml), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.cli("", "appservice", "add", yaml)
	k.know("token of an application service", asToken)
	k.know("token for an application service", hsToken)

	var link struct {
		URL string `json:"url"`
	}
	tail := func() string { return link.URL[strings.LastIndexByte(link.URL, '/')+1:] }
	k.json(&link, "", "invite", "--json")
	k.know("invite", tail())
	k.json(&link, "", "user", "recover", "alice", "--json")
	k.know("link for a new password", tail())
	var sso struct {
		Secret string `json:"client_secret"`
	}
	k.json(&sso, "", "app", "add", "wiki", "--template", "grafana", "--url", "https://grafana.example.org", "--json")
	k.know("secret of an application", sso.Secret)
	k.cli("secret-of-the-upstream-01\n", "upstream", "add", "hall", "--issuer", main.issuer, "--client-id", "here", "--secret-stdin")
	k.know("secret at another provider", "secret-of-the-upstream-01")
	k.cli("password-of-the-mail-server\n", "mail", "set", "--host", "mail.example.org", "--user", "holdfast", "--from", "holdfast@example.org", "--password-stdin")
	k.know("password of the mail server", "password-of-the-mail-server")
	k.cli("password-of-the-reader\n", "directory", "set", "corp", "--url", "ldaps://127.0.0.1:1", "--base-dn", "dc=example,dc=org", "--bind-dn", "cn=reader", "--password-stdin")
	k.know("password of a directory's reader", "password-of-the-reader")

	k.fillFactors()
	k.fillSAML()
	k.fillCards()

	key, err := os.ReadFile(filepath.Join(k.data, "identity.key"))
	if err != nil {
		k.t.Fatal(err)
	}
	k.know("master key", string(key))
}

// totp is the code of an authenticator app. Spec: RFC 6238
func totp(seed []byte, now time.Time) string {
	m := hmac.New(sha1.New, seed)
	binary.Write(m, binary.BigEndian, now.Unix()/30)
	h := m.Sum(nil)
	at := h[len(h)-1] & 15
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(h[at:at+4])&0x7fffffff%1_000_000)
}

var (
	seedShown  = regexp.MustCompile(`<code id="secret">([A-Z2-7 ]+)</code>`)
	setupShown = regexp.MustCompile(`name="setup" value="([^"]+)"`)
	codesShown = regexp.MustCompile(`<li><code>([^<]+)</code></li>`)
)

// fillFactors has somebody add an authenticator app on the pages, which gives them
// recovery codes as well.
func (k *keeper) fillFactors() {
	k.t.Helper()
	k.cli(restPassword+"\n", "user", "add", "tina", "--password-stdin")
	b := newBrowser(k.t, k.p)
	page := must(url.Parse(k.p.issuer + "/login?next=/account/security/app"))
	b.do("GET", page.String(), nil)
	if status, _ := b.answer(page, url.Values{"username": {"tina"}, "password": {restPassword}}); status != http.StatusSeeOther {
		k.t.Fatalf("tina does not get in: %d\n%s", status, b.last)
	}
	page = must(url.Parse(k.p.issuer + "/account/security/app"))
	b.do("GET", page.String(), nil)
	shown, setup := seedShown.FindStringSubmatch(b.last), setupShown.FindStringSubmatch(b.last)
	if shown == nil || setup == nil {
		k.t.Fatalf("no authenticator app can be added:\n%s", b.last)
	}
	text := strings.ReplaceAll(shown[1], " ", "")
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(text)
	if err != nil {
		k.t.Fatal(err)
	}
	status, _ := b.answer(page, url.Values{"setup": {html.UnescapeString(setup[1])}, "code": {totp(seed, time.Now())}})
	codes := codesShown.FindAllStringSubmatch(b.last, -1)
	if status != http.StatusOK || len(codes) == 0 {
		k.t.Fatalf("the authenticator app is not added: %d\n%s", status, b.last)
	}
	k.know("seed of an authenticator app", string(seed))
	k.know("seed of an authenticator app as it is typed", text)
	for i, c := range codes {
		k.know(fmt.Sprintf("recovery code %d", i+1), c[1])
		k.know(fmt.Sprintf("recovery code %d without dashes", i+1), strings.ReplaceAll(c[1], "-", ""))
	}
}

// fillSAML knows a SAML provider, for which the program makes a key of its own. It is
// read by the master key, which says besides that it is sealed under that.
func (k *keeper) fillSAML() {
	k.t.Helper()
	file := filepath.Join(k.t.TempDir(), "idp.xml")
	if err := os.WriteFile(file, samltest.New(k.t).XML(k.t), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.cli("", "upstream", "add", "town", "--saml", file)
	master, err := os.ReadFile(filepath.Join(k.data, "identity.key"))
	if err != nil {
		k.t.Fatal(err)
	}
	key, err := hkdf.Key(sha256.New, master, nil, "holdfast settings", 32)
	if err != nil {
		k.t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(k.data, "holdfast.db"))
	if err != nil {
		k.t.Fatal(err)
	}
	var config string
	err = db.QueryRow(`SELECT config FROM id_upstreams WHERE id = 'town'`).Scan(&config)
	db.Close()
	if err != nil {
		k.t.Fatal(err)
	}
	box, err := base64.RawStdEncoding.DecodeString(config)
	if err == nil {
		box, err = opstore.Unseal(key, box)
	}
	var c struct {
		SAML struct{ Key []byte } `json:"saml"`
	}
	if err == nil {
		err = json.Unmarshal(box, &c)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(c.SAML.Key)
	if err != nil {
		k.t.Fatal(err)
	}
	rsaKey := private.(*rsa.PrivateKey)
	k.know("SAML key", string(c.SAML.Key))
	k.know("SAML key in base64", base64.StdEncoding.EncodeToString(c.SAML.Key)[64:128])
	for i, n := range append(rsaKey.Primes, rsaKey.D) {
		k.know(fmt.Sprintf("number %d of the SAML key", i), string(n.Bytes()))
	}
}

var (
	codeShown = regexp.MustCompile(`\b[0-9A-Z]{4}(?:-[0-9A-Z]{4}){3}\b`)
	pinShown  = regexp.MustCompile(`\b(\d{3}) (\d{3})\b`)
)

// fillCards prints invites with PINs and reads them from the paper.
func (k *keeper) fillCards() {
	k.t.Helper()
	if _, err := exec.LookPath("pdftotext"); err != nil && os.Getenv("CI") != "true" {
		return // without cards the rest is worth its time
	}
	dir := k.t.TempDir()
	k.cli("", "invite", "batch", "Ward 7", "--count", "3", "--cards", filepath.Join(dir, "cards.pdf"), "--pins", filepath.Join(dir, "pins.pdf"))
	words := func(name string) string {
		out, err := exec.Command(need.Program(k.t, "pdftotext", "poppler-utils"), "-layout", filepath.Join(dir, name), "-").Output()
		if err != nil {
			k.t.Fatal(err)
		}
		return string(out)
	}
	codes, pins := codeShown.FindAllString(words("cards.pdf"), -1), pinShown.FindAllStringSubmatch(words("pins.pdf"), -1)
	if len(codes) != 3 || len(pins) != 3 {
		k.t.Fatalf("%d codes and %d PINs", len(codes), len(pins))
	}
	for i := range codes {
		k.cards = append(k.cards, card{strings.ReplaceAll(codes[i], "-", ""), pins[i][1] + pins[i][2]})
		k.know(fmt.Sprintf("code of card %d", i+1), codes[i])
		k.know(fmt.Sprintf("code of card %d without dashes", i+1), k.cards[i].code)
	}
}

// pins fails where a PIN stands in the database, or something by which it can be tried out
// without the key. Six digits are too few to look for in the files: they may be anywhere.
func (k *keeper) pins(when string) {
	k.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(k.data, "holdfast.db"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer db.Close()
	kept := 0
	for _, table := range []string{"id_cards", "id_invites", "id_batches", "id_links", "id_auth_failures"} {
		rows, err := db.Query(`SELECT * FROM ` + table)
		if err != nil {
			k.t.Fatal(err)
		}
		columns, _ := rows.Columns()
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				k.t.Fatal(err)
			}
			for i := range values {
				v := *values[i].(*any)
				if b, ok := v.([]byte); ok && columns[i] == "pin" && len(b) == sha256.Size {
					kept++
				}
				for _, c := range k.cards {
					if fmt.Sprint(v) == c.pin || same(v, c, fmt.Sprint(*values[0].(*any))) {
						k.t.Errorf("%s: a PIN can be read from %s of %s", when, columns[i], table)
					}
				}
			}
		}
		if err := rows.Close(); err != nil {
			k.t.Fatal(err)
		}
	}
	if kept != len(k.cards) {
		k.t.Errorf("%s: %d PINs are kept for %d cards; does this test still look at the right place?", when, kept, len(k.cards))
	}
}

// same reports whether a value is what a PIN could be tried out against: its own hash, or
// one with what stands beside it or on the card.
func same(v any, c card, id string) bool {
	b, _ := v.([]byte)
	for _, text := range []string{c.pin, id + c.pin, id + "\x00" + c.pin, c.code + c.pin, c.code + "\x00" + c.pin} {
		for _, h := range []hash.Hash{sha256.New(), sha1.New(), hmac.New(sha256.New, nil), hmac.New(sha256.New, []byte(id))} {
			h.Write([]byte(text))
			if bytes.Equal(b, h.Sum(nil)) {
				return true
			}
		}
	}
	return string(b) == c.pin
}

func (k *keeper) json(to any, stdin string, args ...string) {
	k.t.Helper()
	out := k.cli(stdin, args...)
	if err := json.Unmarshal(out, to); err != nil {
		k.t.Fatalf("%v: %v in %s", args, err, out)
	}
}

// files are the database and all that lies beside it and belongs to it.
func (k *keeper) files() map[string][]byte {
	k.t.Helper()
	out := map[string][]byte{}
	list, _ := filepath.Glob(filepath.Join(k.data, "holdfast.db*"))
	for _, f := range append(list, filepath.Join(k.data, "audit.head")) {
		b, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue // audit.head is written within a second after the first entry
		}
		if err != nil {
			k.t.Fatal(err)
		}
		out[filepath.Base(f)] = b
	}
	return out
}

// forms are the ways in which a value may stand somewhere.
func forms(v string) map[string][]byte {
	b := []byte(v)
	return map[string][]byte{"as it is": b, "in hex": []byte(hex.EncodeToString(b)), "in HEX": []byte(strings.ToUpper(hex.EncodeToString(b))),
		"in base64": []byte(base64.RawStdEncoding.EncodeToString(b)), "in base64url": []byte(base64.RawURLEncoding.EncodeToString(b))}
}

func find(files map[string][]byte, v string) (where []string) {
	for name, b := range files {
		for form, f := range forms(v) {
			if bytes.Contains(b, f) {
				where = append(where, name+" "+form)
			}
		}
	}
	return where
}

// none fails for every secret that stands in a file or in the log.
func (k *keeper) none(when string) {
	k.t.Helper()
	files := k.files()
	if len(find(files, "@alice:rest.test")) == 0 {
		k.t.Fatal("not even the user's name is found")
	}
	k.pins(when)
	files["log"] = k.logs
	for what, v := range k.secrets {
		if w := find(files, v); len(w) > 0 {
			k.t.Errorf("%s: the %s is in %s", when, what, strings.Join(w, ", "))
		}
	}
	// An RSA key in PKCS #8 has its algorithm's identifier in clear.
	rsa := string([]byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00, 0x04, 0x82})
	for name, b := range files {
		if bytes.Contains(b, []byte(rsa)) {
			k.t.Errorf("%s: a private RSA key is in %s", when, name)
		}
		if at := seedAt(b, k.keyID, k.public); at >= 0 {
			k.t.Errorf("%s: the server's signing key is in %s at byte %d", when, name, at)
		}
	}
}

// seedAt looks near the key's ID for 32 bytes of which the public key comes.
func seedAt(b []byte, id string, public []byte) int {
	for from := 0; id != ""; {
		i := bytes.Index(b[from:], []byte(id))
		if i < 0 {
			return -1
		}
		i += from
		for at := max(0, i-96); at+ed25519.SeedSize <= min(len(b), i+160); at++ {
			if bytes.Equal(ed25519.NewKeyFromSeed(b[at : at+ed25519.SeedSize])[32:], public) {
				return at
			}
		}
		from = i + len(id)
	}
	return -1
}

var keyID = regexp.MustCompile(`^ed25519:`)

// readKey has the public signing key from the API.
func (k *keeper) readKey() (id string, public []byte) {
	k.t.Helper()
	resp, err := http.Get("http://" + k.others + "/_matrix/key/v2/server")
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	var told struct {
		Keys map[string]struct{ Key string } `json:"verify_keys"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&told); err != nil {
		k.t.Fatal(err)
	}
	for id, v := range told.Keys {
		public, err := base64.RawStdEncoding.DecodeString(v.Key)
		if err != nil || !keyID.MatchString(id) {
			k.t.Fatal(id, v, err)
		}
		return id, public
	}
	k.t.Fatal("the server tells no key")
	return "", nil
}

// works tries that what is sealed is still what it was.
func (k *keeper) works() {
	k.t.Helper()
	if list, _ := k.ask("GET", "/_synapse/admin/v1/registration_tokens", nil)["registration_tokens"].([]any); len(list) != 2 ||
		text(list[0].(map[string]any), "token") != k.secrets["registration token"] && text(list[1].(map[string]any), "token") != k.secrets["registration token"] {
		k.t.Errorf("the registration tokens are %v", list)
	}
	if v := k.ask("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token="+k.secrets["registration token"], nil); v["valid"] != true {
		k.t.Errorf("the registration token is not valid: %v", v)
	}
	if list, _ := k.ask("GET", "/_matrix/client/v3/pushers", nil)["pushers"].([]any); len(list) != 1 || text(list[0].(map[string]any), "pushkey") != pushkey ||
		text(list[0].(map[string]any)["data"].(map[string]any), "token") != "data-of-a-pusher-01" {
		k.t.Errorf("the pushers are %v", list)
	}
	k.ask("POST", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"+k.secrets["ID of a delayed event"], map[string]any{"action": "restart"})
	if out := k.cli("", "appservice", "list"); !bytes.Contains(out, []byte("bridge")) {
		k.t.Errorf("the application services are %s", out)
	}
	id, public := k.readKey()
	if id != k.keyID || !bytes.Equal(public, k.public) {
		k.t.Errorf("the server has another signing key: %s", id)
	}
	mine := k.token
	k.token = asToken
	if who := k.ask("GET", "/_matrix/client/v3/account/whoami", nil); text(who, "user_id") != "@bridge:rest.test" {
		k.t.Errorf("the application service is %v", who)
	}
	k.token = mine
	req, _ := http.NewRequest("POST", k.p.issuer+"/"+topic, strings.NewReader("hello"))
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != 200 {
		k.t.Errorf("the topic takes nothing: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
}

// clear puts into the database what an earlier version kept in clear, as it was then.
func (k *keeper) clear() {
	k.t.Helper()
	master, err := os.ReadFile(filepath.Join(k.data, "identity.key"))
	if err != nil {
		k.t.Fatal(err)
	}
	key, err := hkdf.Key(sha256.New, master, nil, "holdfast homeserver secrets", 32)
	if err != nil {
		k.t.Fatal(err)
	}
	box, err := sealed.New(key)
	if err != nil {
		k.t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(k.data, "holdfast.db"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer db.Close()
	set := func(query string, args ...any) {
		k.t.Helper()
		r, err := db.Exec(query, args...)
		if err != nil {
			k.t.Fatalf("%s: %v", query, err)
		}
		if n, _ := r.RowsAffected(); n == 0 {
			k.t.Fatalf("%s: no row", query)
		}
	}
	set(`DELETE FROM store_sealed`)
	set(`DELETE FROM id_registration_tokens`)
	set(`INSERT INTO id_registration_tokens (token, uses, created) VALUES ($1, 3, 1), ($2, NULL, 1)`, k.secrets["registration token"], k.secrets["long registration token"])
	var kept []byte
	if err := db.QueryRow(`SELECT private FROM server_keys`).Scan(&kept); err != nil {
		k.t.Fatal(err)
	}
	seed, err := box.Open("server signing key", string(kept))
	if err != nil {
		k.t.Fatal(err)
	}
	set(`UPDATE server_keys SET private = $1`, []byte(seed))
	set(`UPDATE delayed_events SET delay_id = $1`, k.secrets["ID of a delayed event"])
	set(`UPDATE pushers SET pushkey = $1, url = $2, data = $3`, pushkey, gateway, `{"token":"data-of-a-pusher-01","url":"`+gateway+`"}`)
	set(`UPDATE up_topics SET topic = $1`, topic)
	set(`UPDATE appservice_registrations SET yaml = $1`, k.yaml)
	set(`INSERT INTO call_delegations (room, identity, delay_id, delay_ms) VALUES ('r', 'i', $1, 600000)`, k.secrets["ID of a delayed event"])
	set(`INSERT INTO pusher_mails (pusher_id, secret, sent_ts, in_row) SELECT id, 'secret-of-a-link-in-mails', 0, 0 FROM pushers`)
	k.know("link that ends mails", "secret-of-a-link-in-mails")
}

// Row 46 of the table of attacks: a stolen database file yields no usable secret.
func TestAttack46StolenDatabaseOfTheProgram(t *testing.T) {
	k := newKeeper(t)
	k.fill()
	k.keyID, k.public = k.readKey()
	k.works()
	k.none("while it runs")
	k.stop()
	k.none("after a stop")

	// What an earlier version left: all of it in clear. It is sealed at the next start,
	// and nothing of it stays.
	k.clear()
	files := k.files()
	for _, v := range []string{asToken, hsToken, pushkey, topic, k.secrets["registration token"], k.secrets["ID of a delayed event"], k.secrets["link that ends mails"]} {
		if len(find(files, v)) == 0 {
			t.Fatalf("%s is not in clear; does this test still make an old database?", v)
		}
	}
	if seedAt(files["holdfast.db"], k.keyID, k.public) < 0 {
		t.Fatal("the signing key is not in clear; does this test still make an old database?")
	}
	k.start()
	k.works()
	k.none("while it runs on an older database")
	k.stop()
	k.none("after a stop on an older database")
	k.start()
	k.works()
}

// TestMasterKeyUnderPassphrase seals the key of a running appliance and starts it with the
// right passphrase, a wrong one and none, by a file, a variable and systemd's credential.
func TestMasterKeyUnderPassphrase(t *testing.T) {
	k := newKeeper(t)
	k.fill()
	k.keyID, k.public = k.readKey()
	file := filepath.Join(k.data, "identity.key")
	plain, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const pass = "five words that nobody guesses"
	if _, e, err := k.try("short\n", "masterkey", "passphrase", "--passphrase-stdin"); err == nil || !bytes.Contains(e, []byte("12 characters")) {
		t.Errorf("a short passphrase: %v %s", err, e)
	}
	k.cli(pass+"\n", "masterkey", "passphrase", "--passphrase-stdin")
	if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, plain) {
		t.Fatalf("the key is in clear: %v", err)
	}
	if out := k.cli("", "masterkey", "show"); !bytes.Contains(out, []byte("under a passphrase")) {
		t.Errorf("%s", out)
	}
	k.works()
	k.stop()
	k.know("passphrase of the master key", pass)
	k.none("with a passphrase")
	sealed, _ := os.ReadFile(file)
	secretFile := filepath.Join(t.TempDir(), "passphrase")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(secretFile, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct{ set, text, want string }{
		"none":  {"", "", "key.passphrase_file"},
		"wrong": {"key.passphrase_file=" + secretFile, "another passphrase", "not what is in"},
		"empty": {"key.passphrase_file=" + secretFile, "", "is empty"},
	} {
		put(c.text)
		var set []string
		if c.set != "" {
			set = append(set, c.set)
		}
		args := []string{"serve", "--set", "tls.mode=off", "--set", "listen.http=127.0.0.1:0", "--set", "listen.metrics=", "--set", "sfu.enabled=false"}
		for _, x := range set {
			args = append(args, "--set", x)
		}
		if _, e, err := k.try("", args...); err == nil || !bytes.Contains(e, []byte(c.want)) {
			t.Errorf("%s: %v %s", name, err, e)
		}
		if b, _ := os.ReadFile(file); !bytes.Equal(b, sealed) {
			t.Fatalf("%s: the file was changed", name)
		}
	}
	put(pass)
	k.start("key.passphrase_file=" + secretFile)
	k.works()
	// A copy of the folder opens with the passphrase, as a restored backup does; the log of
	// the stopped appliance is verified by its file.
	k.stop()
	backup := filepath.Join(t.TempDir(), "data")
	if out, err := exec.Command("cp", "-a", k.data, backup).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	k.data = backup
	if out := k.cli("", "audit", "verify", "--file", filepath.Join(backup, "holdfast.db"), "--set", "key.passphrase_file="+secretFile); !bytes.Contains(out, []byte("as the appliance wrote it")) {
		t.Errorf("%s", out)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(secretFile))
	if err := os.Rename(secretFile, filepath.Join(filepath.Dir(secretFile), "holdfast.passphrase")); err != nil {
		t.Fatal(err)
	}
	k.start()
	k.works()
	if out := k.cli("", "audit", "list", "--event", "masterkey."); !bytes.Contains(out, []byte("masterkey.change")) || !bytes.Contains(out, []byte("masterkey.failed")) || bytes.Contains(out, []byte(pass)) {
		t.Errorf("%s", out)
	}
	k.cli("", "masterkey", "plain")
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, sealed) {
		t.Error("the folder that the copy was made of changed", err)
	}
	if b, err := os.ReadFile(filepath.Join(backup, "identity.key")); err != nil || !bytes.Equal(b, plain) {
		t.Error("the key is another", err)
	}
}
