package identity_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"holdfast/identity"
)

// Each action that is announced leads to its page: at once for who is signed in, and
// after the sign-in for who is not, about the device that the application named.
func TestAccountLinks(t *testing.T) {
	names := map[string]string{}
	r := newRig(t, func(o *identity.Options) {
		o.DisplayName = func(_ context.Context, id string) (string, error) { return names[id], nil }
		o.Rename = func(_ context.Context, id, name string) error { names[id] = name; return nil }
	})
	u := r.user("alice")
	names[u.UserID] = "Alice L."
	c := r.client(nil)
	r.session("alice", c)
	pages := map[string]string{ // what only that page has
		"org.matrix.profile":             `action="/account/profile"`,
		"org.matrix.devices_list":        "Where you are signed in</h1>",
		"org.matrix.sessions_list":       "Where you are signed in</h1>",
		"org.matrix.device_view":         `href="/account?action=org.matrix.device_delete&amp;device_id=ABCDEFGHIJ"`,
		"org.matrix.session_view":        `href="/account?action=org.matrix.device_delete&amp;device_id=ABCDEFGHIJ"`,
		"org.matrix.device_delete":       "Sign out this device?</h1>",
		"org.matrix.session_end":         "Sign out this device?</h1>",
		"org.matrix.account_deactivate":  `action="/account/deactivate"`,
		"org.matrix.cross_signing_reset": `action="/account/reset"`,
	}
	meta := r.browser().get("/.well-known/oauth-authorization-server").json(t)
	announced := meta["account_management_actions_supported"].([]any)
	if len(announced) != len(pages) {
		t.Errorf("announced are %v", announced)
	}
	in := r.browser()
	in.enter("alice", "/account")
	for _, a := range announced {
		action := a.(string)
		link := strings.TrimPrefix(meta["account_management_uri"].(string), origin) + "?" + url.Values{"action": {action}, "device_id": {"ABCDEFGHIJ"}}.Encode()
		want := pages[action]
		if p := in.get(link); p.StatusCode != 200 || want == "" || !strings.Contains(p.body, want) {
			t.Errorf("%s: %d, the page has no %q: %s", action, p.StatusCode, want, p.body)
		}
		out := r.browser()
		at := out.get(link).to(t)
		if at.Path != "/login" {
			t.Fatalf("%s: %s", action, at)
		}
		back := out.post(at.String(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
		if p := out.get(back.String()); p.StatusCode != 200 || !strings.Contains(p.body, want) {
			t.Errorf("%s after the sign-in: %s %d", action, back, p.StatusCode)
		}
		if strings.Contains(action, "device_") || strings.Contains(action, "session_") {
			if p := in.get(strings.Replace(link, "ABCDEFGHIJ", "NOSUCH", 1)); p.StatusCode != 200 || !strings.Contains(p.body, "That device is not signed in.") {
				t.Errorf("%s of a device that there is not: %d", action, p.StatusCode)
			}
		}
	}
	// The profile.
	if p := in.get("/account?action=org.matrix.profile"); !strings.Contains(p.body, `value="Alice L."`) {
		t.Error("the name of the profile is not shown")
	}
	if p := in.post("/account/profile", url.Values{"display_name": {" Alice <b> "}}); p.StatusCode != 200 || names[u.UserID] != "Alice <b>" || strings.Contains(p.body, "<b>") {
		t.Errorf("%d %q", p.StatusCode, names[u.UserID])
	}
	if p := in.post("/account/profile", url.Values{"display_name": {strings.Repeat("x", 257)}}); p.StatusCode != 400 {
		t.Errorf("a long name: %d", p.StatusCode)
	}
	if err := r.svc.SetSuspended(t.Context(), u.UserID, true); err != nil {
		t.Fatal(err)
	}
	if p := in.post("/account/profile", url.Values{"display_name": {"x"}}); p.StatusCode != 403 || names[u.UserID] != "Alice <b>" {
		t.Errorf("a suspended account: %d %q", p.StatusCode, names[u.UserID])
	}
	if to := r.browser().post("/account/profile", url.Values{"display_name": {"x"}}).to(t); to.Path != "/login" {
		t.Error(to)
	}
}
