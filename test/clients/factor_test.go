package clients

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
)

// addApp adds an authenticator app to an account, on its pages.
func (s *server) addApp(t *testing.T, name string) {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	do := func(path string, form url.Values) string {
		t.Helper()
		var res *http.Response
		var err error
		if form == nil {
			res, err = browser.Get(s.url + path)
		} else {
			res, err = browser.PostForm(s.url+path, form)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %d %v %.500s", path, res.StatusCode, err, b)
		}
		return string(b)
	}
	do("/login?next=/account/security/app", url.Values{"username": {name}, "password": {password}})
	page := do("/account/security/app", nil)
	shown := regexp.MustCompile(`<code id="secret">([A-Z2-7 ]+)</code>`).FindStringSubmatch(page)
	setup := regexp.MustCompile(`name="setup" value="([^"]+)"`).FindStringSubmatch(page)
	if shown == nil || setup == nil {
		t.Fatalf("%.2000s", page)
	}
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ReplaceAll(shown[1], " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	// RFC 6238
	mac := hmac.New(sha1.New, key)
	binary.Write(mac, binary.BigEndian, time.Now().Unix()/30)
	sum := mac.Sum(nil)
	digits := binary.BigEndian.Uint32(sum[sum[19]&15:]) & 0x7fffffff % 1_000_000
	if page := do("/account/security/app", url.Values{"setup": setup[1:], "code": {fmt.Sprintf("%06d", digits)}}); !strings.Contains(page, "Your recovery codes") {
		t.Fatalf("%.2000s", page)
	}
}

// A client library that knows only passwords does not get past a second factor, nor past
// the rule that there must be one, unless the administrator lets it.
func TestPasswordAlone(t *testing.T) {
	s := start(t)
	s.addUser(t, "app") // has a second factor
	s.addUser(t, "none")
	s.addApp(t, "app")
	set := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(s.bin, append([]string{"login", "set", "--data", s.data}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	login := func(name string, may bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cli, err := mautrix.NewClient(s.url, "", "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = cli.Login(ctx, &mautrix.ReqLogin{
			Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name}, Password: password, StoreCredentials: true,
		})
		var http mautrix.HTTPError
		switch {
		case may && err != nil:
			t.Errorf("%s: %v", name, err)
		case may:
			if _, err := cli.Whoami(ctx); err != nil {
				t.Error(err)
			}
		case !errors.As(err, &http) || http.RespError == nil || http.RespError.ErrCode != "M_FORBIDDEN" || !strings.Contains(http.RespError.Err, "second factor"):
			t.Errorf("%s: %v", name, err)
		}
	}
	login("app", false)
	login("none", true)
	set("--second-factor", "everyone")
	login("none", false)
	set("--password-alone", "on")
	login("app", true)
	login("none", true)
	set("--password-alone", "off")
	login("app", false)
	login("none", false)
}
