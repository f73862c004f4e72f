package account

import (
	"context"
	"maps"
	"net/http"
	"net/url"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
)

// versionsListed are all since v1.1: clients look for exact strings. Of r0 only
// some paths are served, so it is not claimed.
var versionsListed = []string{
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
	"v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
}

// features maps the unstable features that clients ask for to the operation that
// each needs: what is not served is not announced.
var features = map[string]string{
	"org.matrix.e2e_cross_signing":                   "uploadCrossSigningKeys",
	"org.matrix.msc2285.stable":                      "setReadMarker",
	"org.matrix.msc3030.stable":                      "getEventByTimestamp",
	"org.matrix.msc3266":                             "getRoomSummary",
	"org.matrix.msc3440.stable":                      "getRelatingEventsWithRelType",
	"org.matrix.msc3771":                             "postReceipt",
	"org.matrix.msc3773":                             "sync",
	"org.matrix.msc3881":                             "postPusher",
	"org.matrix.msc3912":                             "redactEvent",
	"org.matrix.msc3916.stable":                      "getContentAuthed",
	"org.matrix.msc3981":                             "getRelatingEvents",
	"org.matrix.msc4108":                             "createRendezvousSession",
	"org.matrix.msc4140":                             "getDelayedEvents",
	"org.matrix.msc4143":                             "getRTCTransports",
	"org.matrix.msc4306":                             "subscribeToThread",
	"org.matrix.simplified_msc3575":                  "slidingSync",
	"uk.tcpip.msc4133.stable":                        "setProfileField",
	"com.beeper.msc4169":                             "redactEvent",
	"fi.mau.msc2246.stable":                          "createContent",
	"fi.mau.msc2659.stable":                          "pingAppservice",
	"uk.half-shot.msc2666.query_mutual_rooms.stable": "getMutualRooms",
	"uk.timedout.msc4323.stable":                     "setAdminLockUser",
}

// Offer tells which operations the homeserver serves, before the first request.
func (s *Service) Offer(routes []route.Route) {
	ops := map[string]bool{}
	for _, r := range routes {
		ops[r.Op] = true
	}
	s.dehydration = ops["putDehydratedDevice"]
	s.features = map[string]bool{}
	for feature, op := range features {
		s.features[feature] = ops[op]
	}
	if s.features["org.matrix.msc4108"] && s.o.Accounts != nil { // signing in with a QR code ends in the device grant
		m, _ := s.o.Accounts.Metadata("").(map[string]any)
		s.features["org.matrix.msc4108"] = m["device_authorization_endpoint"] != nil
	}
	for feature, preset := range map[string]string{"public": "public_chat", "private": "private_chat", "trusted_private": "trusted_private_chat"} {
		s.features["io.element.e2ee_forced."+feature] = s.o.ForcesEncryption != nil && s.o.ForcesEncryption(preset)
	}
}

// versions answers GET /versions. Spec: cs#get_matrixclientversions
func (s *Service) versions(context.Context, *route.Request) (any, error) {
	return map[string]any{"versions": versionsListed, "unstable_features": s.features}, nil
}

// wellKnownClient answers GET /.well-known/matrix/client. Spec: cs#getwell-knownmatrixclient
func (s *Service) wellKnownClient(_ context.Context, r *route.Request) (any, error) {
	origin := s.o.PublicURL(r.Request)
	out := map[string]any{
		"m.homeserver":                      map[string]string{"base_url": origin},
		"org.matrix.msc2965.authentication": map[string]string{"issuer": origin, "account": origin + "/account"},
	}
	if s.dehydration {
		out["org.matrix.msc3814"] = true
	}
	if s.o.WellKnown != nil {
		for k, v := range s.o.WellKnown(r.Request) {
			out[k] = v
		}
	}
	return out, nil
}

// wellKnownServer answers GET /.well-known/matrix/server. Spec: s2s#getwell-knownmatrixserver
func (s *Service) wellKnownServer(_ context.Context, r *route.Request) (any, error) {
	u, err := url.Parse(s.o.PublicURL(r.Request))
	if err != nil {
		return nil, err
	}
	host := u.Host
	if u.Port() == "" {
		host += ":443"
	}
	return map[string]string{"m.server": host}, nil
}

// wellKnownSupport answers GET /.well-known/matrix/support. Spec: cs#getwell-knownmatrixsupport
func (s *Service) wellKnownSupport(context.Context, *route.Request) (any, error) {
	return nil, &mx.Error{Code: mx.NotFound, Msg: "No support contact is set.", Status: http.StatusNotFound}
}

// wellKnownPolicy answers GET /.well-known/matrix/policy_server. Spec: cs#getwell-knownmatrixpolicy_server
func (s *Service) wellKnownPolicy(context.Context, *route.Request) (any, error) {
	if s.o.PolicyKey == "" {
		return nil, mx.Errorf(mx.NotFound, "This server has no policy server.")
	}
	return map[string]any{"public_keys": map[string]string{"ed25519": s.o.PolicyKey}}, nil
}

// capabilities answers GET /capabilities. Spec: cs#get_matrixclientv3capabilities
func (s *Service) capabilities(ctx context.Context, r *route.Request) (any, error) {
	type enabled struct {
		Enabled bool `json:"enabled"`
	}
	kept, err := s.o.Kept(ctx, r.UserID)
	if err != nil {
		return nil, err
	}
	fields := struct {
		enabled
		Disallowed []string `json:"disallowed,omitempty"` // changed in a directory
	}{enabled: enabled{s.features["uk.tcpip.msc4133.stable"]}}
	if kept.Name {
		fields.Disallowed = append(fields.Disallowed, "displayname")
	}
	if kept.Avatar {
		fields.Disallowed = append(fields.Disallowed, "avatar_url")
	}
	rooms, version := map[string]string{}, pdu.Default
	if s.o.RoomVersion != nil {
		version = s.o.RoomVersion()
	}
	for _, v := range pdu.Versions {
		if pdu.Creatable(v) {
			rooms[string(v)] = "stable"
		}
	}
	caps := map[string]any{
		"m.change_password":               enabled{true},
		"m.room_versions":                 map[string]any{"default": version, "available": rooms},
		"m.set_displayname":               enabled{!kept.Name},
		"m.set_avatar_url":                enabled{!kept.Avatar},
		"m.profile_fields":                fields,
		"uk.tcpip.msc4133.profile_fields": fields,
		"m.3pid_changes":                  enabled{s.mailReady() && !kept.Emails},
		"m.get_login_token":               enabled{s.logins().SSO},
	}
	if r.Admin {
		caps["m.account_moderation"] = map[string]bool{"suspend": true, "lock": true}
	}
	if s.o.Capabilities != nil {
		maps.Copy(caps, s.o.Capabilities())
	}
	return map[string]any{"capabilities": caps}, nil
}

// authMetadata answers GET /auth_metadata. Spec: cs#get_matrixclientv1auth_metadata
func (s *Service) authMetadata(_ context.Context, r *route.Request) (any, error) {
	return s.o.Accounts.Metadata(s.o.PublicURL(r.Request)), nil
}

// authIssuer answers the older discovery of MSC2965.
func (s *Service) authIssuer(_ context.Context, r *route.Request) (any, error) {
	return map[string]string{"issuer": s.o.PublicURL(r.Request)}, nil
}
