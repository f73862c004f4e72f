package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Cards are invites, and links to accounts that there are, on paper.
type Cards interface {
	// PrintCards makes a batch of cards. Errors: *Error.
	PrintCards(ctx context.Context, n NewBatch) (Printed, error)
	// Reprint prints cards anew that were not used; their old codes end. Errors: *Error.
	Reprint(ctx context.Context, n Reprint) (Printed, error)
	// Languages are those that cards can be printed in.
	Languages() []Language
	// Batches lists the batches without their cards, newest first.
	Batches(ctx context.Context) ([]Batch, error)
	// Batch has the cards, too. Errors: *Error 404.
	Batch(ctx context.Context, id string) (Batch, error)
	// Link makes a link for one person: Kind is "enrol" or "recovery". Errors: *Error.
	Link(ctx context.Context, n NewLink) (Invite, error)
	// RevokeCards withdraws a card, or all of a batch that are open, and says how many.
	// Errors: *Error 404.
	RevokeCards(ctx context.Context, id string) (int, error)
}

// NewBatch asks for cards.
type NewBatch struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`            // "invite", or for accounts that there are "enrol" or "recovery"
	Count     int      `json:"count,omitempty"` // of "invite"
	Users     []string `json:"users,omitempty"` // of the others: whose cards
	Roles     []string `json:"roles,omitempty"` // of "invite": what the account is given
	Groups    []string `json:"groups,omitempty"`
	ExpiresIn int64    `json:"expires_in"` // seconds
	Paper

	Origin string `json:"-"` // where the browser is; "": not known
}

// Paper is how cards are printed.
type Paper struct {
	PINs     bool   `json:"pins"`
	PerPage  int    `json:"per_page"`           // 1 or 10
	Language string `json:"language,omitempty"` // the Tag of one of Languages; "": English
}

// Language is one that cards can be printed in.
type Language struct {
	Tag  string `json:"tag"`  // BCP 47, as "de"
	Name string `json:"name"` // as it calls itself
}

// Reprint asks for new cards in the place of a card, or of all of a batch that were not used.
type Reprint struct {
	ID        string `json:"-"`
	ExpiresIn int64  `json:"expires_in,omitempty"` // seconds; 0: until the day that the batch has
	Paper

	Origin string `json:"-"`
}

// NewLink asks for a link to an account that there is.
type NewLink struct {
	UserID    string `json:"user_id"`
	Kind      string `json:"kind"`
	ExpiresIn int64  `json:"expires_in"` // seconds

	Origin string `json:"-"`
}

// Printed are new cards. Their codes and PINs are in the documents alone.
type Printed struct {
	Batch Batch  `json:"batch"`
	Cards []byte `json:"cards_pdf"`
	PINs  []byte `json:"pins_pdf,omitempty"`
}

// Batch are cards that were made together.
type Batch struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`
	PINs      bool      `json:"pins"`
	Roles     []string  `json:"roles"`
	Groups    []string  `json:"groups"`
	By        string    `json:"by,omitempty"` // "": the command line
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	Open      int       `json:"open"`
	Used      int       `json:"used"`
	Expired   int       `json:"expired"`
	Withdrawn int       `json:"withdrawn"`
	Cards     []Card    `json:"cards,omitempty"`
}

// Card is one of a batch.
type Card struct {
	ID          string `json:"id"`
	Number      int    `json:"number"`
	State       string `json:"state"` // "open", "used", "expired" or "withdrawn"
	UserID      string `json:"user_id,omitempty"`
	DisplayName string `json:"display_name,omitempty"`
}

// Lists are lists of people that are taken over.
type Lists interface {
	// PlanList says what a list would change, as JSON of the appliance's. Errors: *Error.
	PlanList(ctx context.Context, list []byte, q url.Values) (any, error)
	// ApplyList does it, and prints cards for the new accounts where q asks for it.
	// Errors: *Error.
	ApplyList(ctx context.Context, list []byte, q url.Values, origin string) (any, error)
}

const (
	listPath = "/api/console/lists/"
	maxList  = 32 << 20 // bytes of a list
)

var errCardTime = &Error{Code: "bad_expiry", Field: "expires_in", Message: "A card can be valid for one second to one year."}

func (s *Server) cardRoutes(handle func(pattern string, f func(r *http.Request, admin string) (any, error))) {
	handle("GET /api/console/cards", func(r *http.Request, _ string) (any, error) { return s.Cards.Batches(r.Context()) })
	handle("GET /api/console/cards/languages", func(*http.Request, string) (any, error) { return s.Cards.Languages(), nil })
	handle("GET /api/console/cards/{id}", func(r *http.Request, _ string) (any, error) {
		return s.Cards.Batch(r.Context(), r.PathValue("id"))
	})
	handle("POST /api/console/cards", func(r *http.Request, _ string) (any, error) {
		var in NewBatch
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		switch {
		case in.Kind != "invite" && in.Kind != "enrol" && in.Kind != "recovery":
			return nil, &Error{Code: "bad_kind", Field: "kind", Message: "Choose one of: invite, enrol, recovery."}
		case in.ExpiresIn < 1 || in.ExpiresIn > int64(longestInvite/time.Second):
			return nil, errCardTime
		}
		in.Origin = s.origin(r)
		return s.Cards.PrintCards(r.Context(), in)
	})
	handle("POST /api/console/cards/{id}/reprint", func(r *http.Request, _ string) (any, error) {
		in := Reprint{ID: r.PathValue("id")}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if in.ExpiresIn < 0 || in.ExpiresIn > int64(longestInvite/time.Second) {
			return nil, errCardTime
		}
		in.Origin = s.origin(r)
		return s.Cards.Reprint(r.Context(), in)
	})
	handle("POST /api/console/cards/{id}/revoke", func(r *http.Request, _ string) (any, error) {
		n, err := s.Cards.RevokeCards(r.Context(), r.PathValue("id"))
		return map[string]int{"cards": n}, err
	})
	handle("POST /api/console/links", func(r *http.Request, _ string) (any, error) {
		var in NewLink
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		switch {
		case in.Kind != "enrol" && in.Kind != "recovery":
			return nil, &Error{Code: "bad_kind", Field: "kind", Message: "Choose one of: enrol, recovery."}
		case in.ExpiresIn < 1 || in.ExpiresIn > int64(longestInvite/time.Second):
			return nil, &Error{Code: "bad_expiry", Field: "expires_in", Message: "A link can be valid for one second to 30 days."}
		}
		in.Origin = s.origin(r)
		inv, err := s.Cards.Link(r.Context(), in)
		return withQR(inv, err)
	})
	// The list itself is the body: spreadsheets come in several encodings.
	handle("POST "+listPath+"plan", func(r *http.Request, _ string) (any, error) {
		b, err := readList(r)
		if err != nil {
			return nil, err
		}
		return s.Lists.PlanList(r.Context(), b, r.URL.Query())
	})
	handle("POST "+listPath+"apply", func(r *http.Request, _ string) (any, error) {
		b, err := readList(r)
		if err != nil {
			return nil, err
		}
		return s.Lists.ApplyList(r.Context(), b, r.URL.Query(), s.origin(r))
	})
}

func readList(r *http.Request) ([]byte, error) {
	var b bytes.Buffer
	_, err := io.Copy(&b, r.Body)
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return nil, &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: "The list is larger than 32 MB. Split it."}
	}
	if err != nil {
		return nil, &Error{Code: "unreadable", Message: "The list did not arrive complete. Try again."}
	}
	return b.Bytes(), nil
}
