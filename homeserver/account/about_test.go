package account_test

import (
	"testing"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

func TestPolicyServer(t *testing.T) {
	const path, key = "/.well-known/matrix/policy_server", "6yhHGKhCiXTSEN2ksjV7kX/N6rBQZ3Xb+M7LlC6NS+s"
	hstest.New(t, nil).Login(t, "alice").Fails(404, mx.NotFound, "GET", path, nil)
	hs := hstest.New(t, func(o *homeserver.Options) { o.PolicyKey = key })
	if got := hs.Login(t, "alice").Must("GET", path, nil).At("public_keys", "ed25519").String(); got != key {
		t.Errorf("the key is %q, want %q", got, key)
	}
}
