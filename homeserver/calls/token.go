package calls

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// The requests that clients make for a relay token differ by age:
//   - legacy: /sfu/get of the token service; the identity is "user:device";
//   - service: /get_token of the token service; the identity is hashed;
//   - client: the client-server API's get_token (MSC4195), with an access token.

type legacyRequest struct {
	Room     string      `json:"room"`
	OpenID   OpenIDToken `json:"openid_token"`
	DeviceID string      `json:"device_id"`
	handover
}

type serviceRequest struct {
	RoomID string      `json:"room_id"`
	SlotID string      `json:"slot_id"`
	OpenID OpenIDToken `json:"openid_token"`
	Member rtcMember   `json:"member"`
	handover
}

type clientRequest struct {
	ServerName string    `json:"server_name"`
	URL        string    `json:"url"`
	RoomID     string    `json:"room_id"`
	SlotID     string    `json:"slot_id"`
	Member     rtcMember `json:"member"`
	MemberID   string    `json:"member_id"` // of the latest form, instead of member
	DelayID    string    `json:"delay_id"`
}

type rtcMember struct {
	ID       string `json:"id"`
	UserID   string `json:"claimed_user_id"`
	DeviceID string `json:"claimed_device_id"`
}

// handover delegates a delayed leave in the request for a token. The delay and
// the homeserver's address that clients send along are ours to know.
type handover struct {
	DelayID string `json:"delay_id"`
}

type serviceResponse struct {
	URL string `json:"url"`
	JWT string `json:"jwt"`
}

// field is a value that must be present and short.
type field struct{ name, value string }

func need(fields ...field) error {
	for _, f := range fields {
		if f.value == "" {
			return mx.Errorf(mx.BadJSON, "The request lacks %q.", f.name)
		}
		if len(f.value) > mx.MaxIDBytes {
			return mx.Errorf(mx.BadJSON, "%q has more than %d bytes.", f.name, mx.MaxIDBytes)
		}
	}
	return nil
}

// caller is whose OpenID token a request carries.
func (s *Service) caller(ctx context.Context, t OpenIDToken) (userID string, err error) {
	if err := need(field{"openid_token.access_token", t.AccessToken}, field{"openid_token.matrix_server_name", t.ServerName}); err != nil {
		return "", err
	}
	refused := mx.Errorf(mx.Unauthorized, "The OpenID token is not one of this server, or has expired.")
	if t.ServerName != s.o.ServerName {
		return s.remoteCaller(ctx, t)
	}
	userID, err = s.Userinfo(ctx, t.AccessToken)
	if e, ok := err.(*mx.Error); ok && e.Code == mx.UnknownToken {
		return "", refused
	}
	if err == nil && mx.Domain(userID) != s.o.ServerName {
		return "", refused
	}
	return userID, err
}

// remoteCaller is whose OpenID token of another server a request carries. Only servers
// of the list are asked.
func (s *Service) remoteCaller(ctx context.Context, t OpenIDToken) (userID string, err error) {
	if !s.listed(t.ServerName) {
		return "", mx.Errorf(mx.Unauthorized, "Users of other servers take part in calls here only where an administrator allows their server.")
	}
	userID, err = s.o.Remote.Userinfo(ctx, t.ServerName, t.AccessToken)
	switch {
	case errors.Is(err, ErrUnknownThere):
		return "", mx.Errorf(mx.Unauthorized, "Your server does not know the OpenID token, or it has expired.")
	case err != nil:
		s.o.Log.Warn("another server could not be asked about its user who wants into a call", "server", t.ServerName, "err", err)
		return "", &mx.Error{Code: mx.Unknown, Status: http.StatusBadGateway, Msg: "Your server could not be asked who you are. Try again in a moment.", Err: err}
	case mx.Domain(userID) != t.ServerName:
		return "", mx.Errorf(mx.Unauthorized, "Your server names a user who is not its own.")
	}
	return userID, nil
}

func (s *Service) serviceTokenLegacy(ctx context.Context, r *route.Request, in legacyRequest) (out serviceResponse, err error) {
	if err := need(field{"room", in.Room}, field{"device_id", in.DeviceID}); err != nil {
		return out, err
	}
	user, err := s.caller(ctx, in.OpenID)
	if err != nil {
		return out, err
	}
	identity := user + ":" + in.DeviceID
	return s.answer(ctx, r, user, in.DeviceID, in.Room, legacySlot, identity, in.handover)
}

// serviceToken gives a token also where a limit keeps its owner out for now, and the
// relay refuses it: Element Call shows of an error here that something went wrong, of the
// relay's refusal that the call cannot be held now and whom to ask.
func (s *Service) serviceToken(ctx context.Context, r *route.Request, in serviceRequest) (out serviceResponse, err error) {
	user, identity, err := s.serviceMember(ctx, in)
	if err != nil {
		return out, err
	}
	return s.answer(ctx, r, user, in.Member.DeviceID, in.RoomID, in.SlotID, identity, in.handover)
}

// serviceMember checks who asks, and returns the relay's name for it.
func (s *Service) serviceMember(ctx context.Context, in serviceRequest) (userID, identity string, err error) {
	m := in.Member
	err = need(field{"room_id", in.RoomID}, field{"slot_id", in.SlotID}, field{"member.id", m.ID},
		field{"member.claimed_user_id", m.UserID}, field{"member.claimed_device_id", m.DeviceID})
	if err != nil {
		return "", "", err
	}
	if userID, err = s.caller(ctx, in.OpenID); err != nil {
		return "", "", err
	}
	if userID != m.UserID {
		return "", "", mx.Errorf(mx.Unauthorized, "The OpenID token is another user's.")
	}
	identity, err = hash(userID, m.DeviceID, m.ID)
	return userID, identity, err
}

func (s *Service) answer(ctx context.Context, r *route.Request, user, device, roomID, slotID, identity string, h handover) (out serviceResponse, err error) {
	jwt, err := s.admit(ctx, user, device, roomID, slotID, identity)
	if err != nil {
		return out, err
	}
	if h.DelayID != "" && s.o.Delayed != nil {
		if err := s.delegate(ctx, user, roomID, slotID, identity, h.DelayID); err != nil {
			return out, err
		}
	}
	return serviceResponse{s.mediaURL(r.Request), jwt}, nil
}

// Spec: MSC4195
func (s *Service) clientToken(ctx context.Context, r *route.Request, in clientRequest) (out struct {
	JWT string `json:"jwt"`
}, err error) {
	if err := r.NotSuspended(); err != nil {
		return out, err
	}
	device, identity, err := s.clientMember(r, in)
	if err != nil {
		return out, err
	}
	if err := s.member(ctx, r.UserID, device, in.RoomID); err != nil {
		return out, err
	}
	full, err := s.full(in.RoomID, in.SlotID, identity)
	if err != nil {
		return out, err
	}
	if full != "" {
		return out, errFull(full)
	}
	out.JWT, err = s.admit(ctx, r.UserID, device, in.RoomID, in.SlotID, identity)
	return out, err
}

func (s *Service) clientMember(r *route.Request, in clientRequest) (deviceID, identity string, err error) {
	if in.ServerName != "" && in.ServerName != s.o.ServerName {
		return "", "", mx.Errorf(mx.InvalidParam, "This server hands out tokens for its own call relay only.")
	}
	if strings.TrimRight(in.URL, "/") != s.mediaURL(r.Request) {
		return "", "", mx.Errorf(mx.InvalidParam, "The URL is not that of this server's call relay.")
	}
	if err := need(field{"room_id", in.RoomID}, field{"slot_id", in.SlotID}); err != nil {
		return "", "", err
	}
	if in.MemberID != "" {
		if err := need(field{"member_id", in.MemberID}); err != nil {
			return "", "", err
		}
		identity, err = hash(r.UserID, in.MemberID)
		return r.DeviceID, identity, err
	}
	deviceID = in.Member.DeviceID
	if deviceID == "" {
		deviceID = r.DeviceID
	}
	if err := need(field{"member.id", in.Member.ID}, field{"member.claimed_device_id", deviceID}); err != nil {
		return "", "", err
	}
	if in.Member.UserID != "" && in.Member.UserID != r.UserID {
		return "", "", mx.Errorf(mx.Forbidden, "The member is another user.")
	}
	identity, err = hash(r.UserID, deviceID, in.Member.ID)
	return deviceID, identity, err
}

func (s *Service) clientDelegate(ctx context.Context, r *route.Request, in clientRequest) (route.Empty, error) {
	if in.URL == "" { // the latest form has none
		in.URL = s.mediaURL(r.Request)
	}
	_, identity, err := s.clientMember(r, in)
	if err == nil {
		err = need(field{"delay_id", in.DelayID})
	}
	if err == nil {
		err = s.delegate(ctx, r.UserID, in.RoomID, in.SlotID, identity, in.DelayID)
	}
	return route.Empty{}, err
}

func (s *Service) serviceDelegate(ctx context.Context, _ *route.Request, in serviceRequest) (route.Empty, error) {
	user, identity, err := s.serviceMember(ctx, in)
	if err == nil {
		err = need(field{"delay_id", in.DelayID})
	}
	if err == nil {
		err = s.delegate(ctx, user, in.RoomID, in.SlotID, identity, in.DelayID)
	}
	return route.Empty{}, err
}

// errNoEvent answers 400: clients take a 404 for "cannot delegate at all".
func errNoEvent() error {
	return &mx.Error{Code: mx.BadJSON, Status: http.StatusBadRequest, Msg: "There is no such delayed event of yours in this room that still waits."}
}
