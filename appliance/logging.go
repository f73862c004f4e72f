package appliance

import (
	"context"
	"io"
	"log/slog"

	"holdfast/appliance/config"
)

// logs makes the loggers of the components, each with its own level.
type logs struct {
	cfg  *config.Config
	base slog.Handler
}

func newLogs(cfg *config.Config, w io.Writer) *logs {
	o := &slog.HandlerOptions{Level: slog.LevelDebug}
	if cfg.Log.Format == "json" {
		return &logs{cfg, slog.NewJSONHandler(w, o)}
	}
	return &logs{cfg, slog.NewTextHandler(w, o)}
}

func (l *logs) component(name string) *slog.Logger {
	return slog.New(&leveled{l.base, l.cfg.Level(name)}).With("component", name)
}

// leveled drops what is below a component's level.
type leveled struct {
	slog.Handler
	min slog.Level
}

func (h *leveled) Enabled(_ context.Context, l slog.Level) bool { return l >= h.min }

func (h *leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &leveled{h.Handler.WithAttrs(attrs), h.min}
}

func (h *leveled) WithGroup(name string) slog.Handler {
	return &leveled{h.Handler.WithGroup(name), h.min}
}
