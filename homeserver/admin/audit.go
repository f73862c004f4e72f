package admin

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store/audit"
)

// reads are the operations that give out what people wrote to each other, or keep for
// themselves: these are noted like changes.
var reads = []string{"synapseRoomMessages", "synapseEventContext", "synapseFetchEvent", "synapseAccountData"}

// looks are further reads of what is private: who is where with whom, and what was reported.
var looks = []string{"synapseRoomState", "synapseRoomMembers", "synapseHierarchy", "synapseRoomMedia", "synapseUserMedia", "synapseMedia",
	"synapseJoinedRooms", "synapseMemberships", "synapseDevices", "synapseDevice", "synapsePushers", "synapseEventReport", "synapseUserReport"}

var parameter = regexp.MustCompile(`\{(\w+)\}`)

// audited has an operation noted in the log, with who did it and to whom or what,
// once it has succeeded. Bodies are not noted, nor words that register accounts.
func (s *Service) audited(op, pattern string, h route.Handler) route.Handler {
	if strings.HasPrefix(pattern, "GET ") && !slices.Contains(reads, op) && !slices.Contains(looks, op) {
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
		if err := s.intends(ctx, r, op, names); err != nil {
			return nil, err
		}
		out, err := h(context.WithValue(ctx, notesKey{}, &more), r)
		if err == nil {
			notes := []any{"administrator", r.UserID, "operation", op}
			for _, n := range names {
				notes = append(notes, n, r.Param(n))
			}
			s.o.Log.Info("an administrator acted", append(notes, more...)...)
		} else {
			s.failed(ctx, r, op, err)
		}
		return out, err
	}
}

// intends has an operation in the audit log before it runs: nothing happens, and nothing
// is read, that could not be noted. What it then changes is noted by those who change it,
// where it is about people; that it failed, by failed.
func (s *Service) intends(ctx context.Context, r *route.Request, op string, names []string) error {
	d := audit.Data{"operation": op}
	target := ""
	for _, n := range names {
		d[n] = r.Param(n)
		if target == "" {
			target = r.Param(n)
		}
	}
	return s.o.Audit.Append(audit.As(ctx, r.UserID), audit.Event{Name: "admin.call", Target: target, Data: d})
}

// failed notes that an operation was refused or went wrong.
func (s *Service) failed(ctx context.Context, r *route.Request, op string, err error) {
	d := audit.Data{"operation": op, "error": "internal"}
	if e := (*mx.Error)(nil); errors.As(err, &e) {
		d["error"] = string(e.Code)
	}
	if err := s.o.Audit.Append(context.WithoutCancel(audit.As(ctx, r.UserID)), audit.Event{Name: "admin.failed", Data: d}); err != nil {
		s.o.Log.Error("an operation that failed could not be noted", "operation", op, "err", err)
	}
}

type notesKey struct{}

// noted adds to what is noted of the operation that runs in ctx.
func noted(ctx context.Context, key, value string) {
	if more, ok := ctx.Value(notesKey{}).(*[]any); ok {
		*more = append(*more, key, value)
	}
}
