package web

import (
	"context"
	"net/http"
	"time"
)

// Push is how notifications reach people.
type Push interface {
	Push(ctx context.Context) (PushReport, error)
}

// PushReport is what the console shows of it.
type PushReport struct {
	Phones      int           `json:"phones"`
	Connections int           `json:"connections"`
	Topics      int           `json:"topics"` // apps on phones
	Waiting     int           `json:"waiting"`
	Keep        int64         `json:"keep"` // seconds that a message waits for its phone
	Foreign     bool          `json:"foreign"`
	Troubles    []PushTrouble `json:"troubles"`
}

// PushTrouble is a push gateway that takes no notifications.
type PushTrouble struct {
	Gateway string    `json:"gateway"` // its host
	Pushers int       `json:"pushers"` // that wait for it
	Next    time.Time `json:"next"`    // the next attempt
	Error   string    `json:"error,omitempty"`
}

func (s *Server) push(r *http.Request, _ string) (any, error) {
	p, err := s.Push.Push(r.Context())
	if p.Troubles == nil {
		p.Troubles = []PushTrouble{}
	}
	return p, err
}
