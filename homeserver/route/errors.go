package route

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"syscall"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// statuses is the one mapping from codes to HTTP statuses. Codes that are not
// listed answer 400. Spec: cs#standard-error-response
var statuses = map[mx.Code]int{
	mx.Forbidden: http.StatusForbidden, mx.Unauthorized: http.StatusUnauthorized,
	mx.UnknownToken: http.StatusUnauthorized, mx.MissingToken: http.StatusUnauthorized,
	mx.UserLocked: http.StatusUnauthorized, mx.UserSuspended: http.StatusForbidden, mx.UserDeactivated: http.StatusForbidden,
	mx.NotFound: http.StatusNotFound, mx.Unrecognized: http.StatusNotFound,
	mx.LimitExceeded: http.StatusTooManyRequests, mx.TooLarge: http.StatusRequestEntityTooLarge,
	mx.GuestForbidden: http.StatusForbidden, mx.WrongRoomKeysVersion: http.StatusForbidden,
	mx.NotYetUploaded: http.StatusGatewayTimeout, mx.CannotOverwriteMedia: http.StatusConflict,
	mx.CannotLeaveNotices: http.StatusForbidden, mx.InviteBlocked: http.StatusForbidden, mx.ThreepidDenied: http.StatusForbidden,
	mx.ConflictingUnsubscription: http.StatusConflict,
}

// Status is the HTTP status that an error is answered with.
func Status(e *mx.Error) int {
	if e.Status != 0 {
		return e.Status
	}
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	return http.StatusBadRequest
}

// WriteError answers with an error. Errors that are no *mx.Error answer 500 with
// a request ID (503 when the disk fails); the cause is logged.
func WriteError(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	var e *mx.Error
	if !errors.As(err, &e) {
		var id = rand.Text()[:12]
		e = &mx.Error{Code: mx.Unknown, Status: http.StatusInternalServerError, Msg: "Something went wrong in the server. Its log has the cause under " + id + "."}
		if errors.Is(err, store.ErrNotFound) { // as when a room was deleted while somebody read in it
			e = &mx.Error{Code: mx.NotFound, Msg: "This is not there, or not there any more."}
		}
		if errors.Is(err, store.ErrUnavailable) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) { // the latter of files
			e = &mx.Error{Code: mx.Unknown, Status: http.StatusServiceUnavailable, Msg: "The server cannot use its disk. Try again; an administrator finds the cause in the log under " + id + "."}
		}
		if r.Context().Err() == nil {
			log.Error("a request failed", "id", id, "method", r.Method, "route", r.Pattern, "err", err)
		}
	}
	status := Status(e)
	body := map[string]any{}
	for k, v := range e.Fields {
		body[k] = v
	}
	if e.Code != "" {
		body["errcode"], body["error"] = e.Code, e.Msg
	}
	if e.Code == mx.LimitExceeded && e.RetryAfter > 0 {
		body["retry_after_ms"] = e.RetryAfter.Milliseconds()
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
