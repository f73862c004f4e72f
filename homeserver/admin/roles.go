package admin

import (
	"context"
	"errors"
	"slices"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store/audit"
)

// moderation are the operations that moderators may call: reports, rooms and media,
// and whose they are.
var moderation = []string{
	"synapseUsers", "synapseUsersV3", "synapseUser", "synapseSearchUsers", "synapseJoinedRooms", "synapseMemberships",
	"synapseUserMedia", "synapseDeleteUserMedia", "synapseMedia", "synapseDeleteMedia", "synapseQuarantine", "synapseUnquarantine",
	"synapseProtect", "synapseUnprotect", "synapseQuarantineUser", "synapseQuarantineRoom", "synapseRoomMedia", "synapseMediaUsage",
	"synapseRooms", "synapseRoom", "synapseRoomMembers", "synapseRoomState", "synapseRoomMessages", "synapseEventContext",
	"synapseEventByTimestamp", "synapseFetchEvent", "synapseHierarchy", "synapseLargestRooms", "synapseRoomBlock", "synapseBlockRoom",
	"synapseDeleteRoom", "synapseDeleteRoomV2", "synapseDeleteRoomStatus", "synapsePurgeHistory", "synapsePurgeHistoryStatus",
	"synapseRedactUser", "synapseRedactStatus", "synapseTasks", "synapseEventReports", "synapseEventReport", "synapseDeleteEventReport",
	"synapseUserReports", "synapseUserReport", "synapseDeleteUserReport", "synapseVersion", "essVersion",
}

// secrets are the reads that let whoever sees them do something: a word registers an
// account.
var secrets = []string{"synapseTokens", "synapseToken"}

// open says who besides administrators may call an operation. Auditors read all but
// what people wrote, and secrets.
func open(op, pattern string) (moderators, auditors bool) {
	read := strings.HasPrefix(pattern, "GET ")
	return slices.Contains(moderation, op), read && !slices.Contains(reads, op) && !slices.Contains(secrets, op)
}

type callerKey struct{}

// Caller is the user ID of who called the operation that runs in ctx, or "".
func Caller(ctx context.Context) string {
	s, _ := ctx.Value(callerKey{}).(string)
	return s
}

// guarded tells an operation who called it, and refuses one that changes an owner's
// account if the caller is none.
func (s *Service) guarded(pattern string, h route.Handler) route.Handler {
	check := s.o.Accounts != nil && !strings.HasPrefix(pattern, "GET ") && strings.Contains(pattern, "{userID}")
	return func(ctx context.Context, r *route.Request) (any, error) {
		ctx = context.WithValue(audit.As(ctx, r.UserID), callerKey{}, r.UserID)
		if id := r.Param("userID"); check && strings.HasPrefix(id, "@") && mx.Domain(id) == s.o.ServerName {
			err := s.o.Accounts.MayChange(ctx, id)
			// What there is to say about an account that is not there is the operation's.
			if e := (*mx.Error)(nil); err != nil && !(errors.As(err, &e) && e.Code == mx.NotFound) {
				return nil, err
			}
		}
		return h(ctx, r)
	}
}
