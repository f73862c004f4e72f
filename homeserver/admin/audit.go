package admin

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"holdfast/homeserver/route"
)

// reads are the operations that give out what people wrote to each other, or keep for
// themselves: these are noted like changes.
var reads = []string{"synapseRoomMessages", "synapseEventContext", "synapseFetchEvent", "synapseAccountData"}

var parameter = regexp.MustCompile(`\{(\w+)\}`)

// audited has an operation noted in the log, with who did it and to whom or what,
// once it has succeeded. Bodies are not noted, nor words that register accounts.
func (s *Service) audited(op, pattern string, h route.Handler) route.Handler {
	if strings.HasPrefix(pattern, "GET ") && !slices.Contains(reads, op) {
		return h
	}
	var names []string
	for _, m := range parameter.FindAllStringSubmatch(pattern, -1) {
		if m[1] != "token" {
			names = append(names, m[1])
		}
	}
	return func(ctx context.Context, r *route.Request) (any, error) {
		var more []any
		out, err := h(context.WithValue(ctx, notesKey{}, &more), r)
		if err == nil {
			notes := []any{"administrator", r.UserID, "operation", op}
			for _, n := range names {
				notes = append(notes, n, r.Param(n))
			}
			s.o.Log.Info("an administrator acted", append(notes, more...)...)
		}
		return out, err
	}
}

type notesKey struct{}

// noted adds to what is noted of the operation that runs in ctx.
func noted(ctx context.Context, key, value string) {
	if more, ok := ctx.Value(notesKey{}).(*[]any); ok {
		*more = append(*more, key, value)
	}
}
