package federation

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
)

func get(t *testing.T, s *Service, path string) (int, map[string]json.RawMessage) {
	t.Helper()
	srv := route.NewServer(nil, slog.New(slog.DiscardHandler), false, s.Routes())
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	var body map[string]json.RawMessage
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return w.Code, body
}

func service() *Service {
	return New(Options{
		Version: "1.2.3",
		Key:     pdu.SigningKey{ID: "ed25519:a1", Server: "hs.example", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))},
		Userinfo: func(_ context.Context, token string) (string, error) {
			if token != "good" {
				return "", mx.Errorf(mx.UnknownToken, "No.")
			}
			return "@a:hs.example", nil
		},
	})
}

// The published key must verify the answer it stands in, by a signature that is
// computed here from the specification's rules and not by our own code.
func TestKeysVerifyThemselves(t *testing.T) {
	s := service()
	for _, path := range []string{"/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:a1"} {
		code, body := get(t, s, path)
		if code != 200 {
			t.Fatal(code)
		}
		var keys map[string]verifyKey
		var sigs map[string]map[string]string
		json.Unmarshal(body["verify_keys"], &keys)
		json.Unmarshal(body["signatures"], &sigs)
		pub, err := base64.RawStdEncoding.DecodeString(keys["ed25519:a1"].Key)
		if err != nil || len(pub) != ed25519.PublicKeySize {
			t.Fatal(err, len(pub))
		}
		sig, err := base64.RawStdEncoding.DecodeString(sigs["hs.example"]["ed25519:a1"])
		if err != nil {
			t.Fatal(err)
		}
		delete(body, "signatures")
		canonical, _ := json.Marshal(body) // sorted, compact, and nothing here needs HTML escapes
		if !ed25519.Verify(pub, canonical, sig) {
			t.Fatalf("the signature is wrong for %s", canonical)
		}
		var until int64
		json.Unmarshal(body["valid_until_ts"], &until)
		if left := time.Until(time.UnixMilli(until)); left < time.Hour || left > 8*24*time.Hour {
			t.Errorf("valid for %v", left)
		}
	}
}

func TestUserinfo(t *testing.T) {
	for query, want := range map[string]int{"": 401, "?access_token=bad": 401, "?access_token=good": 200} {
		code, body := get(t, service(), "/_matrix/federation/v1/openid/userinfo"+query)
		if code != want {
			t.Errorf("%q: %d %s", query, code, body)
		}
		if want == 200 && string(body["sub"]) != `"@a:hs.example"` {
			t.Errorf("%s", body)
		}
	}
}

func TestVersionAndNothingElse(t *testing.T) {
	if code, body := get(t, service(), "/_matrix/federation/v1/version"); code != 200 || !strings.Contains(string(body["server"]), "1.2.3") {
		t.Error(code, body)
	}
	if code, body := get(t, service(), "/_matrix/federation/v1/event/$x"); code != 404 || string(body["errcode"]) != `"M_UNRECOGNIZED"` {
		t.Error(code, body)
	}
}
