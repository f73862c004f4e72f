package account_test

import (
	"slices"
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

// Clients ask for these features by their exact names, and for no others: one more
// would be a promise nobody reads, one less a function they leave away.
func TestFeatures(t *testing.T) {
	want := []string{
		"com.beeper.msc4169", "fi.mau.msc2246.stable", "fi.mau.msc2659.stable",
		"io.element.e2ee_forced.private", "io.element.e2ee_forced.public", "io.element.e2ee_forced.trusted_private",
		"org.matrix.e2e_cross_signing", "org.matrix.msc2285.stable", "org.matrix.msc3030.stable", "org.matrix.msc3266", "org.matrix.msc3440.stable",
		"org.matrix.msc3771", "org.matrix.msc3773", "org.matrix.msc3881", "org.matrix.msc3912", "org.matrix.msc3916.stable", "org.matrix.msc3981",
		"org.matrix.msc4108", "org.matrix.msc4140", "org.matrix.msc4143", "org.matrix.msc4306", "org.matrix.simplified_msc3575",
		"uk.half-shot.msc2666.query_mutual_rooms.stable", "uk.tcpip.msc4133.stable", "uk.timedout.msc4323.stable",
	}
	// No policy asks for encryption here, and this identity provider has no device grant.
	off := []string{"io.element.e2ee_forced.private", "io.element.e2ee_forced.public", "io.element.e2ee_forced.trusted_private", "org.matrix.msc4108"}
	got := hstest.New(t, nil).Login(t, "alice").Must("GET", "/_matrix/client/versions", nil).At("unstable_features")
	names := got.Keys()
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("features %q\nwant %q", names, want)
	}
	for _, name := range names {
		if v, ok := got.V.(map[string]any)[name].(bool); !ok || v == slices.Contains(off, name) {
			t.Errorf("%s: %v", name, got.V.(map[string]any)[name])
		}
	}
	well := hstest.New(t, nil).Login(t, "alice").Must("GET", "/.well-known/matrix/client", nil)
	if v, _ := well.V.(map[string]any)["org.matrix.msc3814"].(bool); !v {
		t.Errorf("Element Web looks there for dehydrated devices: %s", well.Text())
	}
}
