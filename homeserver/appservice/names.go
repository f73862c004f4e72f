package appservice

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"holdfast/homeserver/mx"
)

// Bounds of asking whether a name exists.
const (
	nameTries = 3
	nameTime  = 5 * time.Second // of one try
	askAgain  = 30 * time.Second
)

// AskAlias asks the services whose namespaces have an alias to make its room, and
// reports whether one says that it did. Errors: 408 when none answers in time.
// Spec: as#get_matrixappv1roomsroomalias
func (s *Service) AskAlias(ctx context.Context, alias string) (bool, error) {
	return s.askName(ctx, alias, "rooms", func(a *app) bool { return matchesAny(a.Namespaces.Aliases, alias) })
}

// AskUser asks the services whose namespaces have a local user to make the account,
// and reports whether one says that it did. Errors: 408 when none answers in time.
// Spec: as#get_matrixappv1usersuserid
func (s *Service) AskUser(ctx context.Context, userID string) (bool, error) {
	if !strings.HasSuffix(userID, ":"+s.o.ServerName) {
		return false, nil
	}
	return s.askName(ctx, userID, "users", func(a *app) bool { return matchesAny(a.Namespaces.Users, userID) })
}

// Asks reports whether some service is asked for a user.
func (s *Service) Asks(userID string) bool {
	for _, a := range s.all() {
		if a.URL != "" && matchesAny(a.Namespaces.Users, userID) {
			return true
		}
	}
	return false
}

func (s *Service) askName(ctx context.Context, name, kind string, match func(a *app) bool) (bool, error) {
	var silent error
	for _, a := range s.all() {
		if a.URL == "" || !match(a) {
			continue
		}
		key := "name " + a.ID + " " + name
		if _, ok := s.asked.get(key); ok {
			continue // it said no, a moment ago
		}
		esc := url.PathEscape(name)
		status, err := s.askOften(ctx, a, call{method: http.MethodGet, path: "/_matrix/app/v1/" + kind + "/" + esc, older: "/" + kind + "/" + esc})
		switch {
		case err != nil:
			silent = err
		case status/100 == 2:
			return true, nil
		case status == http.StatusNotFound:
			s.asked.put(key, nil, askAgain)
		default:
			s.o.Log.Warn("an application service was asked for a name and did not know what to do", "appservice", a.ID, "status", status)
		}
	}
	if silent == nil {
		return false, nil
	}
	return false, &mx.Error{Code: mx.Unknown, Status: http.StatusRequestTimeout, Err: silent,
		Msg: "The application service that knows this name does not answer. Try again later."}
}

// askOften tries some times while there is no answer.
func (s *Service) askOften(ctx context.Context, a *app, c call) (status int, err error) {
	for n := range nameTries {
		try, cancel := context.WithTimeout(ctx, nameTime)
		status, _, err = s.ask(try, a, c)
		cancel()
		if err == nil || errors.Is(err, errTooLarge) || ctx.Err() != nil {
			return status, err
		}
		t := time.NewTimer(time.Duration(n+1) * 200 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return status, err
}
