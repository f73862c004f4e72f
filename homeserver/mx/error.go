package mx

import (
	"fmt"
	"time"
)

// Code is an error code of the client-server API. Spec: cs#standard-error-response
type Code string

// The codes that Holdfast answers.
const (
	Forbidden             Code = "M_FORBIDDEN"
	UnknownToken          Code = "M_UNKNOWN_TOKEN"
	MissingToken          Code = "M_MISSING_TOKEN"
	UserLocked            Code = "M_USER_LOCKED"
	UserSuspended         Code = "M_USER_SUSPENDED"
	UserDeactivated       Code = "M_USER_DEACTIVATED"
	BadJSON               Code = "M_BAD_JSON"
	NotJSON               Code = "M_NOT_JSON"
	NotFound              Code = "M_NOT_FOUND"
	LimitExceeded         Code = "M_LIMIT_EXCEEDED"
	ResourceLimitExceeded Code = "M_RESOURCE_LIMIT_EXCEEDED"
	Unrecognized          Code = "M_UNRECOGNIZED"
	Unknown               Code = "M_UNKNOWN"
	Unauthorized          Code = "M_UNAUTHORIZED"
	UserInUse             Code = "M_USER_IN_USE"
	InvalidUsername       Code = "M_INVALID_USERNAME"
	WeakPassword          Code = "M_WEAK_PASSWORD"
	RoomInUse             Code = "M_ROOM_IN_USE"
	InvalidRoomState      Code = "M_INVALID_ROOM_STATE"
	UnsupportedRoom       Code = "M_UNSUPPORTED_ROOM_VERSION"
	IncompatibleRoom      Code = "M_INCOMPATIBLE_ROOM_VERSION"
	BadState              Code = "M_BAD_STATE"
	GuestForbidden        Code = "M_GUEST_ACCESS_FORBIDDEN"
	MissingParam          Code = "M_MISSING_PARAM"
	InvalidParam          Code = "M_INVALID_PARAM"
	TooLarge              Code = "M_TOO_LARGE"
	Exclusive             Code = "M_EXCLUSIVE"
	CannotLeaveNotices    Code = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
	WrongRoomKeysVersion  Code = "M_WRONG_ROOM_KEYS_VERSION"
	NotYetUploaded        Code = "M_NOT_YET_UPLOADED"
	CannotOverwriteMedia  Code = "M_CANNOT_OVERWRITE_MEDIA"
	UnknownPos            Code = "M_UNKNOWN_POS"
	BadAlias              Code = "M_BAD_ALIAS"
	InvalidSignature      Code = "M_INVALID_SIGNATURE"
	MaxDelayExceeded      Code = "M_MAX_DELAY_EXCEEDED"
	MaxDelayedExceeded    Code = "M_MAX_DELAYED_EVENTS_EXCEEDED"
	UnableToAuthorizeJoin Code = "M_UNABLE_TO_AUTHORISE_JOIN"
	ThreepidInUse         Code = "M_THREEPID_IN_USE"
	DuplicateAnnotation   Code = "M_DUPLICATE_ANNOTATION"
	InviteBlocked         Code = "M_INVITE_BLOCKED"
	ThreepidNotFound      Code = "M_THREEPID_NOT_FOUND"
	ThreepidDenied        Code = "M_THREEPID_DENIED"
	ThreepidAuthFailed    Code = "M_THREEPID_AUTH_FAILED"
	ThreepidMedium        Code = "M_THREEPID_MEDIUM_NOT_SUPPORTED"
	ServerNotTrusted      Code = "M_SERVER_NOT_TRUSTED"
	EmailSendError        Code = "M_EMAIL_SEND_ERROR"
	TokenIncorrect        Code = "M_TOKEN_INCORRECT"
	SessionExpired        Code = "M_SESSION_EXPIRED"
	UnknownDevice         Code = "M_UNKNOWN_DEVICE"
	URLNotSet             Code = "M_URL_NOT_SET"
	ConnectionFailed      Code = "M_CONNECTION_FAILED"
	ConnectionTimeout     Code = "M_CONNECTION_TIMEOUT"
	BadStatus             Code = "M_BAD_STATUS"

	NotInThread               Code = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"
	ConflictingUnsubscription Code = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
)

// Error is an error that a client is told about. Package route maps Code to the
// HTTP status; any other error becomes 500 M_UNKNOWN with only the request's ID.
type Error struct {
	Code Code
	Msg  string // for the person or developer: what happened and what to do
	Err  error  // the cause, for the log only; may be nil

	RetryAfter time.Duration  // with LimitExceeded
	Status     int            // HTTP status where a code has several; 0: the code's usual one
	Fields     map[string]any // further fields of the answer, such as soft_logout
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Msg, e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Msg)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error whose message goes to the client.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}
