package appliance_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/config"
)

func onMachine(t *testing.T, data string, m *appliance.Machine) (*appliance.Appliance, error) {
	t.Helper()
	cfg, err := config.Load(config.Input{Data: data, Set: []string{"listen.https=", "tls.mode=off", "listen.http=127.0.0.1:0", "listen.metrics=", "sfu.udp_port=0"}})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a, err := appliance.StartOn(context.Background(), cfg, m, io.Discard, &log)
	if err == nil {
		t.Cleanup(a.Close)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return a, err
}

// versions asks from outside of the machine.
func versions(a *appliance.Appliance) int {
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/_matrix/client/versions", nil))
	return w.Code
}

// TestTrial starts a new version as nobody's and as somebody's appliance: it is
// blessed once, after its check, and answers others only then.
func TestTrial(t *testing.T) {
	data := t.TempDir()
	for _, claimed := range []bool{false, true} {
		blessed := 0
		a, err := onMachine(t, data, &appliance.Machine{Trial: true, Bless: func() error { blessed++; return nil }})
		if err != nil {
			t.Fatal(err)
		}
		if blessed != 1 || versions(a) != 200 {
			t.Errorf("blessed %d times, answers %d", blessed, versions(a))
		}
		facts, err := a.Facts(context.Background())
		if err != nil || facts.Claimed != claimed || (facts.Code == "") != claimed {
			t.Errorf("%+v, %v", facts, err)
		}
		if !claimed {
			code := facts.Code
			if err := a.NewClaim(context.Background()); err != nil {
				t.Fatal(err)
			}
			if facts, _ := a.Facts(context.Background()); facts.Code == code || facts.Code == "" {
				t.Errorf("the new claim code is %q after %q", facts.Code, code)
			}
			var out, errOut bytes.Buffer
			if appliance.Main(context.Background(), []string{"user", "add", "anna", "--admin", "--password", "correct horse", "--data", data}, &out, &errOut) != 0 {
				t.Fatal(errOut.String())
			}
		} else if a.NewClaim(context.Background()) == nil {
			t.Error("a claimed appliance gets a claim code")
		}
		a.Close()
	}
}

// TestTrialFails holds the doors closed and gives the reason, so that the machine
// starts again and the version before returns.
func TestTrialFails(t *testing.T) {
	worn := errors.New("the stick is worn out")
	if _, err := onMachine(t, t.TempDir(), &appliance.Machine{Trial: true, Bless: func() error { return worn }}); !errors.Is(err, worn) {
		t.Errorf("%v", err)
	}
	// A version that was good before goes on.
	a, err := onMachine(t, t.TempDir(), &appliance.Machine{Bless: func() error { return worn }})
	if err != nil || versions(a) != 200 {
		t.Errorf("%v", err)
	}
}

func TestConsolePassword(t *testing.T) {
	a, err := onMachine(t, t.TempDir(), &appliance.Machine{})
	if err != nil {
		t.Fatal(err)
	}
	if a.HasConsolePassword() || a.CheckConsolePassword(context.Background(), "") != nil {
		t.Error("there is a password before one was set")
	}
	if !strings.Contains(appliance.ErrConsolePassword.Error(), "console") {
		t.Error(appliance.ErrConsolePassword)
	}
}

// TestRedirect sends browsers on to HTTPS under the name they used, if it is ours.
func TestRedirect(t *testing.T) {
	cfg, err := config.Load(config.Input{Data: t.TempDir(), Set: []string{"server_name=chat.test", "listen.https=127.0.0.1:0", "listen.redirect=127.0.0.1:0", "listen.metrics=", "sfu.enabled=false"}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := appliance.Start(context.Background(), cfg, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	_, port, _ := strings.Cut(a.Addr("https").String(), ":")
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, c := range []struct{ method, host, path, want string }{
		{"GET", "localhost", "/setup?x=1", "https://localhost:" + port + "/setup?x=1"},
		{"GET", "Chat.test:80", "/", "https://chat.test:" + port + "/"},
		{"GET", "evil.test", "/setup", "https://"},
		{"POST", "localhost", "/login", ""},
		{"GET", "localhost", "/ca.crt", ""},
	} {
		req, _ := http.NewRequest(c.method, "http://"+a.Addr("redirect").String()+c.path, nil)
		req.Host = c.host
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		got := resp.Header.Get("Location")
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) || strings.Contains(got, "evil") {
			t.Errorf("%s %s%s leads to %q, want %q", c.method, c.host, c.path, got, c.want)
		}
	}
}
