package userdata_test

import (
	"context"
	"testing"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// TestDirectoryOfOneOrganisation: everybody is found where the server is one
// organisation's, and nobody outside shared rooms where it is not.
func TestDirectoryOfOneOrganisation(t *testing.T) {
	db, everyone := apitest.DB(t), false
	s := userdata.New(userdata.Options{DB: db, ServerName: apitest.Server, Rooms: apitest.Rooms{}, Everyone: func() bool { return everyone }})
	api := apitest.New(t, s.Routes())
	err := db.Write(context.Background(), func(tx *store.Tx) error {
		return s.Create(tx, "@brigitte:"+apitest.Server, "Brigitte Example")
	})
	if err != nil {
		t.Fatal(err)
	}
	found := func() int {
		var out struct {
			Results []struct {
				UserID string `json:"user_id"`
			} `json:"results"`
		}
		api.As("alice", "A").OK("POST", "/_matrix/client/v3/user_directory/search", map[string]any{"search_term": "brig"}, &out)
		return len(out.Results)
	}
	if n := found(); n != 0 {
		t.Errorf("strangers were found: %d", n)
	}
	everyone = true
	if n := found(); n != 1 {
		t.Errorf("a colleague was not found: %d", n)
	}
}
