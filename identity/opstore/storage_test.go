package opstore

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"holdfast/identity/account"
	"holdfast/identity/register"
	"holdfast/store"
)

// op answers invalid_grant to any error of these methods, on which applications
// throw their sessions away (17). Trouble must be told from a refusal.
func TestTroubleIsNotARefusal(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "holdfast.db"), store.Options{Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	accounts := account.New(account.Options{DB: db, ServerName: "example.org", Cost: account.Cost{MemoryKiB: 64, Passes: 1, Threads: 1}, Now: time.Now})
	clients := register.New(register.Options{DB: db, Now: time.Now, Live: LiveClients, Origins: func() []string { return nil }})
	s, err := New(Options{DB: db, Log: slog.New(slog.DiscardHandler), Accounts: accounts, Clients: clients, Key: make([]byte, 32), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	st := Storage{s}
	calls := map[string]func(context.Context) error{
		"refresh": func(ctx context.Context) error { _, err := st.TokenRequestByRefreshToken(ctx, "mrt_x"); return err },
		"code":    func(ctx context.Context) error { _, err := st.AuthRequestByCode(ctx, "hac_x"); return err },
		"rotate": func(ctx context.Context) error {
			_, _, _, err := st.CreateAccessAndRefreshTokens(ctx, &refreshRequest{}, "mrt_x")
			return err
		},
		"trade": func(ctx context.Context) error {
			_, _, _, err := st.CreateAccessAndRefreshTokens(ctx, &Request{ID: "x"}, "")
			return err
		},
		"client": func(ctx context.Context) error { _, err := st.GetClientByClientID(ctx, "x"); return err },
	}
	for _, working := range []bool{true, false} {
		ctx := t.Context()
		release := make(chan struct{})
		if !working { // the one reader is busy, the request's time runs out, and nothing is written any more
			held := make(chan struct{})
			go db.Read(t.Context(), func(store.Querier) error { close(held); <-release; return nil })
			<-held
			late, cancel := context.WithCancel(ctx)
			cancel()
			ctx = late
		}
		for name, call := range calls {
			var transient error
			err := call(WithTransient(ctx, &transient))
			var oe *oidc.Error
			if !errors.As(err, &oe) {
				t.Errorf("%s, database working %v: op would show %v", name, working, err)
			} else if (transient == nil) != working {
				t.Errorf("%s, database working %v: noted %v, returned %v", name, working, transient, err)
			}
		}
		close(release)
	}
	db.Close()
}
