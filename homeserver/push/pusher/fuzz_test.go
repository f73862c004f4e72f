package pusher

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/mx"
)

// What a gateway answers removes a pusher only if it is JSON that names its pushkey.
func FuzzRejects(f *testing.F) {
	for _, s := range []string{``, `{}`, `{"rejected":[]}`, `{"rejected":["K"]}`, `{"rejected":"K"}`, `{"rejected":[1,"K"]}`, `["K"]`, `{"rejected":["k"]}`} {
		f.Add([]byte(s), "K")
	}
	f.Fuzz(func(t *testing.T, answer []byte, key string) {
		var v struct {
			Rejected []any `json:"rejected"`
		}
		named := json.Unmarshal(answer, &v) == nil && slices.Contains(v.Rejected, any(key))
		if rejects(answer, key) && !named {
			t.Errorf("%q rejects %q", answer, key)
		}
	})
}

// A URL that is taken leads to a push gateway's path, by TLS.
func FuzzURL(f *testing.F) {
	for _, s := range []string{"https://a.b/_matrix/push/v1/notify", "https://a.b/_matrix/push/v1/notify?x=y", "http://a.b/_matrix/push/v1/notify", "//a/_matrix/push/v1/notify", "https:a", "%"} {
		f.Add(s)
	}
	s := New(Options{})
	f.Fuzz(func(t *testing.T, at string) {
		err := s.checkURL(at)
		if err == nil && (len(at) < len("https://x")+len(gatewayPath) || !strings.EqualFold(at[:8], "https://")) {
			t.Errorf("%q is taken", at)
		}
		if e, ok := err.(*mx.Error); err != nil && (!ok || e.Msg == "") {
			t.Errorf("%q: %v tells nothing", at, err)
		}
	})
}
