// Package federation answers other Matrix servers, and asks those of a list who their
// users are.
//
// Invariants: it is reached only where the federation listener is on, apart from
// the version; the keys it publishes are signed by themselves and valid for days,
// not for ever; everything else another server asks for is refused as unknown.
package federation

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
)

// keyLife is how long others may keep our keys before they ask again.
const keyLife = 7 * 24 * time.Hour

// Options of New.
type Options struct {
	Version string         // of this program
	Key     pdu.SigningKey // signs our events
	// Userinfo returns whose OpenID token it is: calls.Userinfo.
	// Errors: *mx.Error UnknownToken.
	Userinfo func(ctx context.Context, token string) (sub string, err error)
}

// Service answers other servers.
type Service struct {
	o   Options
	now func() time.Time
}

// New makes the service.
func New(o Options) *Service { return &Service{o, time.Now} }

// Routes are the operations for other servers, for the federation listener.
func (s *Service) Routes() []route.Route {
	return append([]route.Route{
		{Op: "getServerKey", Pattern: "GET /_matrix/key/v2/server", Handle: route.Get(s.keys),
			Aliases: []string{"/_matrix/key/v2/server/{keyID}"}},
		{Op: "exchangeOpenIdToken", Pattern: "GET /_matrix/federation/v1/openid/userinfo", Handle: route.Get(s.userinfo)},
	}, s.ClientRoutes()...)
}

// ClientRoutes are the operations that the clients' listener answers too.
func (s *Service) ClientRoutes() []route.Route {
	return []route.Route{
		{Op: "getFederationVersion", Pattern: "GET /_matrix/federation/v1/version", Handle: route.Get(s.version)},
	}
}

type versionResponse struct {
	Server struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"server"`
}

// version says what runs here. Spec: server-server#get_matrixfederationv1version
func (s *Service) version(context.Context, *route.Request) (versionResponse, error) {
	var v versionResponse
	v.Server.Name, v.Server.Version = "Holdfast", s.o.Version
	return v, nil
}

type verifyKey struct {
	Key string `json:"key"`
}

type keysResponse struct {
	ServerName    string               `json:"server_name"`
	ValidUntil    int64                `json:"valid_until_ts"`
	VerifyKeys    map[string]verifyKey `json:"verify_keys"`
	OldVerifyKeys map[string]verifyKey `json:"old_verify_keys"`
}

// keys publishes the signing key. Spec: server-server#get_matrixkeyv2server
func (s *Service) keys(context.Context, *route.Request) (mx.Raw, error) {
	b, err := json.Marshal(keysResponse{
		ServerName:    s.o.Key.Server,
		ValidUntil:    s.now().Add(keyLife).UnixMilli(),
		VerifyKeys:    map[string]verifyKey{s.o.Key.ID: {pdu.Base64(s.o.Key.Public())}},
		OldVerifyKeys: map[string]verifyKey{},
	})
	if err != nil {
		return nil, err
	}
	return pdu.SignJSON(b, s.o.Key)
}

// userinfo tells whose OpenID token it is. The token is an OpenID token, not an
// access token, so the route has no authentication of its own.
// Spec: server-server#get_matrixfederationv1openiduserinfo
func (s *Service) userinfo(ctx context.Context, r *route.Request) (map[string]string, error) {
	token := r.Query("access_token")
	if token == "" {
		return nil, mx.Errorf(mx.MissingToken, "Send the OpenID token as access_token.")
	}
	sub, err := s.o.Userinfo(ctx, token)
	if err != nil {
		return nil, err
	}
	return map[string]string{"sub": sub}, nil
}
