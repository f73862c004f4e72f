package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// Nonces of shared-secret registration: each is good once, for a minute.
const (
	nonceFor  = time.Minute
	maxNonces = 10_000
)

type nonces struct {
	mu sync.Mutex
	m  map[string]time.Time // until when
}

func (n *nonces) issue(now time.Time) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.m == nil {
		n.m = map[string]time.Time{}
	}
	if len(n.m) >= maxNonces {
		for k, until := range n.m {
			if now.After(until) {
				delete(n.m, k)
			}
		}
		if len(n.m) >= maxNonces {
			return "", &mx.Error{Code: mx.LimitExceeded, Msg: "Too many registrations were begun. Try again in a minute.", RetryAfter: nonceFor}
		}
	}
	v := rand.Text() + rand.Text()
	n.m[v] = now.Add(nonceFor)
	return v, nil
}

// use reports whether the nonce is good, and uses it up.
func (n *nonces) use(v string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	until, ok := n.m[v]
	delete(n.m, v)
	return ok && now.Before(until)
}

var errNoSecret = &mx.Error{Code: mx.Unknown, Msg: "Registration by shared secret is not enabled. Set registration.shared_secret in appliance.toml."}

// nonce begins a registration by shared secret, as Synapse's admin API does.
func (s *Service) nonce(context.Context, *route.Request) (any, error) {
	if s.o.SharedSecret == "" {
		return nil, errNoSecret
	}
	v, err := s.nonces.issue(s.o.Now())
	if err != nil {
		return nil, err
	}
	return map[string]string{"nonce": v}, nil
}

type secretRequest struct {
	Nonce        string `json:"nonce"`
	Username     string `json:"username"`
	DisplayName  string `json:"displayname"`
	Password     string `json:"password"`
	Admin        bool   `json:"admin"`
	UserType     string `json:"user_type"`
	MAC          string `json:"mac"`
	InhibitLogin bool   `json:"inhibit_login"`
}

// sharedSecretRegister makes an account for who proves to know the secret: mac is
// HMAC-SHA1 over nonce, name, password, "admin" or "notadmin", and the user type
// if there is one, joined by NUL bytes.
func (s *Service) sharedSecretRegister(ctx context.Context, r *route.Request, in secretRequest) (any, error) {
	if s.o.SharedSecret == "" {
		return nil, errNoSecret
	}
	switch {
	case in.Nonce == "":
		return nil, mx.Errorf(mx.BadJSON, "nonce is missing. GET this address for one.")
	case in.Username == "" || len(in.Username) > 512 || strings.Contains(in.Username, "\x00"):
		return nil, mx.Errorf(mx.BadJSON, "username is missing or not valid.")
	case in.Password == "" || len(in.Password) > 512 || strings.Contains(in.Password, "\x00"):
		return nil, mx.Errorf(mx.BadJSON, "password is missing or not valid.")
	}
	if !s.nonces.use(in.Nonce, s.o.Now()) {
		return nil, mx.Errorf(mx.Unknown, "The nonce is not known: it was used, or is older than a minute. GET this address for a new one.")
	}
	role := "notadmin"
	if in.Admin {
		role = "admin"
	}
	parts := []string{in.Nonce, in.Username, in.Password, role}
	if in.UserType != "" {
		parts = append(parts, in.UserType)
	}
	m := hmac.New(sha1.New, []byte(s.o.SharedSecret))
	m.Write([]byte(strings.Join(parts, "\x00")))
	got, err := hex.DecodeString(in.MAC)
	if err != nil || !hmac.Equal(got, m.Sum(nil)) {
		return nil, &mx.Error{Code: mx.Forbidden, Msg: "The mac is not right: it is made with another secret, or over other values."}
	}
	display := in.DisplayName
	if display == "" {
		display = in.Username
	}
	userID, err := s.o.Accounts.CreateUser(ctx, NewUser{Localpart: strings.ToLower(in.Username), DisplayName: display, Password: in.Password, Admin: in.Admin, Source: "admin-api"})
	if err != nil {
		return nil, err
	}
	return s.registered(ctx, r, userID, registerRequest{InhibitLogin: in.InhibitLogin})
}
