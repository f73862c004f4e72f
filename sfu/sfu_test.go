package sfu

import (
	"context"
	"os"
	"testing"
	"time"

	"log/slog"
)

func begin(t *testing.T, o Options) *SFU {
	t.Helper()
	if o.UDPPort == 0 {
		o.UDPPort, o.TCPPort, o.TURNPort = AnyPort, AnyPort, AnyPort
	}
	if os.Getenv("SFU_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Close(ctx)
	})
	return s
}

func TestSelfTest(t *testing.T) {
	s := begin(t, Options{})
	for _, p := range []Path{PathUDP, PathTURN, PathTCP} {
		t.Run(string(p), func(t *testing.T) {
			took, err := s.Probe(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(took)
		})
	}
}
