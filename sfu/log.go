package sfu

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/livekit/protocol/logger"
	"github.com/livekit/protocol/logger/zaputil"
	"google.golang.org/protobuf/proto"
)

// lkLogger lets LiveKit write to our log. LiveKit tells the life of every
// participant at its levels info and warn (somebody hanging up is six warnings):
// that is debug to an administrator. Of pion's messages only errors are of use.
type lkLogger struct {
	h    slog.Handler
	with []any
	pion bool
}

func newLogger(l *slog.Logger) logger.Logger { return lkLogger{h: l.Handler()} }

func (l lkLogger) log(level slog.Level, msg string, err error, kv []any) {
	if level == slog.LevelWarn && (aboutOne(l.with) || aboutOne(kv)) {
		level = slog.LevelDebug
	}
	if l.pion && strings.Contains(msg, io.ErrClosedPipe.Error()) {
		return // a last packet for somebody who has just left
	}
	if (l.pion && level < slog.LevelError) || !l.h.Enabled(context.Background(), level) {
		return
	}
	args := make([]any, 0, len(l.with)+len(kv)+2)
	args = append(append(args, l.with...), kv...)
	if err != nil {
		args = append(args, "err", err)
	}
	for i := 1; i < len(args); i += 2 { // protocol messages may hold secrets
		switch v := args[i].(type) {
		case proto.Message:
			args[i] = fmt.Sprintf("%T", v)
		}
	}
	slog.New(l.h).Log(context.Background(), level, msg, args...)
}

// aboutOne reports whether values name a participant or a connection.
func aboutOne(kv []any) bool {
	for i := 0; i < len(kv); i += 2 {
		switch kv[i] {
		case "participant", "participantID", "connID":
			return true
		}
	}
	return false
}

func (l lkLogger) Debugw(string, ...any)                   {} // as much as one line for each packet
func (l lkLogger) Warnw(msg string, err error, kv ...any)  { l.log(slog.LevelWarn, msg, err, kv) }
func (l lkLogger) Errorw(msg string, err error, kv ...any) { l.log(slog.LevelError, msg, err, kv) }
func (l lkLogger) WithName(string) logger.Logger           { return l }
func (l lkLogger) WithCallDepth(int) logger.Logger         { return l }
func (l lkLogger) WithItemSampler() logger.Logger          { return l }
func (l lkLogger) WithoutSampler() logger.Logger           { return l }
func (l lkLogger) WithUnlikelyValues(kv ...any) logger.UnlikelyLogger {
	return logger.NewUnlikelyLogger(l, kv...)
}

func (l lkLogger) Infow(msg string, kv ...any) {
	if msg == congestionChanged || msg == allocationChanged {
		congestion.hear(slices.Concat(l.with, kv)...)
	}
	l.log(slog.LevelDebug, msg, nil, kv)
}

func (l lkLogger) WithValues(kv ...any) logger.Logger {
	l.with = append(l.with[:len(l.with):len(l.with)], kv...)
	return l
}

func (l lkLogger) WithComponent(name string) logger.Logger {
	l.pion = l.pion || strings.Contains(name, "pion")
	return l
}

func (l lkLogger) WithDeferredValues() (logger.Logger, logger.DeferredFieldResolver) {
	return l, noResolver{}
}

// noResolver drops values that become known later: they are in other lines too.
type noResolver struct{}

var _ zaputil.DeferredFieldResolver = noResolver{}

func (noResolver) Resolve(...any) {}
func (noResolver) Reset()         {}
