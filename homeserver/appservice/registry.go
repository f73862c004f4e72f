package appservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// ErrUnknown is returned for a service that is not registered.
var ErrUnknown = errors.New("there is no application service of this id")

// Info is a service as an administrator sees it. It has no tokens.
type Info struct {
	ID          string    `json:"id"`
	URL         string    `json:"url"` // "": nothing is pushed
	Sender      string    `json:"sender"`
	Users       []string  `json:"users"` // regular expressions
	Aliases     []string  `json:"aliases"`
	Rooms       []string  `json:"rooms"`
	Protocols   []string  `json:"protocols"`
	RateLimited bool      `json:"rate_limited"`
	Ephemeral   bool      `json:"ephemeral"`
	Encryption  bool      `json:"encryption"`
	Source      string    `json:"source"`  // the file it is registered by; "": the command line
	Waiting     int64     `json:"waiting"` // events and to-device messages that it did not take yet
	LastTaken   time.Time `json:"last_taken,omitzero"`
	Failing     time.Time `json:"failing_since,omitzero"`
	Error       string    `json:"error,omitempty"`
}

func regexes(list []Namespace) []string {
	out := []string{}
	for _, n := range list {
		out = append(out, n.Regex)
	}
	return out
}

// List describes the registered services, by ID.
func (s *Service) List(ctx context.Context) ([]Info, error) {
	out := []Info{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		for _, a := range s.all() {
			i := Info{ID: a.ID, URL: a.URL, Sender: a.sender, Users: regexes(a.Namespaces.Users), Aliases: regexes(a.Namespaces.Aliases),
				Rooms: regexes(a.Namespaces.Rooms), Protocols: append([]string{}, a.Protocols...), RateLimited: a.RateLimited,
				Ephemeral: a.Ephemeral, Encryption: a.Encryption, Source: a.Source}
			var err error
			if i.Waiting, err = countQueued(q, a.ID); err != nil {
				return err
			}
			a.mu.Lock()
			i.LastTaken, i.Failing, i.Error = a.state.lastOK, a.state.failing, a.state.why
			a.mu.Unlock()
			out = append(out, i)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Info) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out, err
}

// Add registers a service for good. It gets what happens from now on. Errors:
// *Error, which says what to mend.
func (s *Service) Add(ctx context.Context, text []byte) (Info, error) {
	r, err := Parse(text)
	if err != nil {
		return Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.began {
		return Info{}, errors.New("the homeserver is starting or ending; try again")
	}
	var others []Registration
	for _, a := range s.all() {
		others = append(others, a.Registration)
	}
	if err := conflict(others, r); err != nil {
		return Info{}, &Error{Msg: err.Error()}
	}
	a := s.newApp(r)
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		// Of one that the files outvoted at the start, perhaps.
		if err := forget(tx, r.ID); err != nil {
			return err
		}
		if err := insertRegistration(tx, s.o.Secrets, r.ID, text); err != nil {
			return err
		}
		// After the commit, still in the writer: the next event is queued for it.
		tx.AfterCommit(func() { s.replace(append(slices.Clone(s.all()), a)) })
		if err := s.o.Audit.Tx(ctx, tx, audit.Event{Name: "bridge.add", Target: r.ID, Data: audit.Data{"url": r.URL}}); err != nil {
			return err
		}
		return begin(tx, a)
	})
	if err != nil {
		return Info{}, err
	}
	s.start(a)
	list, err := s.List(ctx)
	if i := slices.IndexFunc(list, func(i Info) bool { return i.ID == r.ID }); i >= 0 {
		return list[i], err
	}
	return Info{ID: r.ID}, err
}

// Remove ends a service that Add registered, and drops what waits for it. Its users
// and rooms stay. Errors: ErrUnknown; *Error for a service that a file registers.
func (s *Service) Remove(ctx context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.byID(id)
	if a == nil {
		return ErrUnknown
	}
	if a.Source != "" {
		return &Error{Msg: fmt.Sprintf("%s is registered by the file %s; remove the file and start the appliance anew", id, a.Source)}
	}
	if a.stop != nil {
		a.stop()
		<-a.done
	}
	rest := slices.DeleteFunc(slices.Clone(s.all()), func(b *app) bool { return b == a })
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		tx.AfterCommit(func() { s.replace(rest) })
		if err := s.o.Audit.Tx(ctx, tx, audit.Event{Name: "bridge.remove", Target: id}); err != nil {
			return err
		}
		return forget(tx, id)
	})
	if err != nil { // it stays
		a.done = make(chan struct{})
		s.start(a)
	}
	return err
}

// Retry sends what waits for a service now, without waiting for the next try.
// Errors: ErrUnknown.
func (s *Service) Retry(id string) error {
	a := s.byID(id)
	if a == nil {
		return ErrUnknown
	}
	a.tryNow()
	return nil
}

func (s *Service) replace(apps []*app) {
	s.apps.Store(&apps)
	s.asked.init()
}
