package sfu

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/livekit/protocol/livekit"
)

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo})))
	one := l.WithValues("room", "r", "participant", "p")
	one.Infow("joined")
	one.Warnw("hung up", errors.New("x"))
	l.Infow("chatter")
	l.Debugw("more chatter")
	l.Warnw("error writing", nil, "connID", "c")
	l.WithComponent("pion.ice").Warnw("ice chatter", nil)
	if b.Len() != 0 {
		t.Errorf("logged:\n%s", &b)
	}
	one.Errorw("broken", errors.New("why"), "message", &livekit.JoinResponse{AlternativeUrl: "secret"})
	l.Warnw("buffer too small", nil)
	l.WithComponent("pion.ice").Errorw("ice broken", nil)
	got := b.String()
	for _, want := range []string{"broken", "err=why", "participant=p", "buffer too small", "ice broken"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if strings.Contains(got, "secret") {
		t.Errorf("a message's content is logged:\n%s", got)
	}
}
