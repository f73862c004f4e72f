package account

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

type registerRequest struct {
	Auth         mx.Raw  `json:"auth"`
	Type         string  `json:"type"` // of an application service
	Username     *string `json:"username"`
	Password     string  `json:"password"`
	DeviceID     string  `json:"device_id"`
	DisplayName  string  `json:"initial_device_display_name"`
	InhibitLogin bool    `json:"inhibit_login"`
	RefreshToken bool    `json:"refresh_token"`
}

const (
	stageDummy    = "m.login.dummy"
	stagePassword = "m.login.password"
	stageSSO      = "m.login.sso"
	stageToken    = "m.login.registration_token"
	stageEmail    = "m.login.email.identity"

	opRegister = "register"
	opPassword = "changePassword"
	opAdd3PID  = "add3PID"
)

// register answers POST /register. With open registration the dummy stage is
// enough, and may come with the first request; otherwise an invite's token is
// needed. With a mail server an address may be proved before. Spec: cs#post_matrixclientv3register
func (s *Service) register(ctx context.Context, r *route.Request, in registerRequest) (any, error) {
	if r.Query("kind") == "guest" {
		return nil, mx.Errorf(mx.GuestForbidden, "This server has no guests.")
	}
	if kind := r.Query("kind"); kind != "" && kind != "user" {
		return nil, mx.Errorf(mx.InvalidParam, "The kind of an account is user.")
	}
	if err := checkDevice(in.DeviceID); err != nil {
		return nil, err
	}
	if r.Appservice != "" || in.Type == "m.login.application_service" {
		return s.registerAppservice(ctx, r, in)
	}
	// A client may leave out on the second request what it sent on the first.
	sess := s.uia.find(in.Auth, r, "", s.o.Now())
	if sess != nil && in.Username == nil && in.Password == "" {
		auth := in.Auth
		if err := json.Unmarshal(sess.body, &in); err != nil {
			return nil, mx.Errorf(mx.BadJSON, "The first request of this session was not valid.")
		}
		in.Auth = auth
	}
	name := ""
	if in.Username != nil {
		name = strings.ToLower(*in.Username)
		if err := s.o.Accounts.Available(ctx, name); err != nil {
			return nil, err
		}
	}
	if in.Password != "" {
		if err := s.o.Accounts.CheckPassword(in.Password); err != nil {
			return nil, err
		}
	}
	stage := stageToken
	if s.o.RegistrationOpen {
		stage = stageDummy
	}
	flows := [][]string{{stage}}
	if s.mailReady() {
		// Before the other stage, which alone completes the other flow.
		flows = append(flows, []string{stageEmail, stage})
	}
	done, err := s.uia.step(ctx, s, r, in.Auth, "", flows, func(ctx context.Context, a auth) error {
		switch a.Type {
		case stageToken:
			return s.checkInvite(ctx, a.Token)
		case stageEmail:
			_, err := s.provedEmail(ctx, ProofRegister, a)
			return err
		}
		return nil // dummy
	})
	if err != nil {
		return nil, err
	}
	if in.Password == "" {
		return nil, mx.Errorf(mx.MissingParam, "A password is needed.")
	}
	if name == "" {
		name = strings.ToLower(rand.Text()[:12])
	}
	userID, err := s.o.Accounts.CreateUser(ctx, NewUser{Localpart: name, DisplayName: name, Password: in.Password, Invite: done.token,
		EmailSID: done.email.SID, EmailSecret: done.email.Secret, Source: "register"})
	if err != nil {
		return nil, err
	}
	return s.registered(ctx, r, userID, in)
}

// checkInvite checks a registration token.
func (s *Service) checkInvite(ctx context.Context, token string) error {
	ok, err := s.o.Accounts.InviteValid(ctx, token)
	if err == nil && !ok {
		err = mx.Errorf(mx.Unauthorized, "The registration token is not valid any more. Ask for a new invite.")
	}
	return err
}

func (s *Service) registered(ctx context.Context, r *route.Request, userID string, in registerRequest) (any, error) {
	if in.InhibitLogin {
		return loginResponse{UserID: userID, HomeServer: s.o.ServerName}, nil
	}
	return s.start(ctx, r, NewSession{UserID: userID, DeviceID: in.DeviceID, DisplayName: in.DisplayName, Refresh: in.RefreshToken})
}

// registerAppservice makes a user of an application service's namespace. Spec: as#server-admin-style-permissions
func (s *Service) registerAppservice(ctx context.Context, r *route.Request, in registerRequest) (any, error) {
	if r.Appservice == "" {
		return nil, mx.Errorf(mx.MissingToken, "Send the application service's token in the Authorization header.")
	}
	if in.Type != "m.login.application_service" {
		return nil, mx.Errorf(mx.Forbidden, "Application services register with the type m.login.application_service.")
	}
	if in.Username == nil {
		return nil, mx.Errorf(mx.MissingParam, "username is missing.")
	}
	name := strings.ToLower(*in.Username)
	if s.o.AppserviceUser == nil || !s.o.AppserviceUser(r.Appservice, "@"+name+":"+s.o.ServerName) {
		return nil, mx.Errorf(mx.Exclusive, "The user name is in none of the application service's namespaces.")
	}
	if s.o.AppserviceOnly != nil && s.o.AppserviceOnly(name, r.Appservice) {
		return nil, mx.Errorf(mx.Exclusive, "The user name belongs to another application service.")
	}
	userID, err := s.o.Accounts.CreateUser(ctx, NewUser{Localpart: name, DisplayName: name, Source: "appservice"})
	if err != nil {
		return nil, err
	}
	return s.registered(ctx, r, userID, in)
}

// available answers GET /register/available. Spec: cs#get_matrixclientv3registeravailable
func (s *Service) available(ctx context.Context, r *route.Request) (any, error) {
	if !r.QueryValues().Has("username") {
		return nil, mx.Errorf(mx.MissingParam, "username is missing.")
	}
	if err := s.o.Accounts.Available(ctx, r.Query("username")); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

// tokenValidity answers whether an invite's token can be used.
// Spec: cs#get_matrixclientv1registermloginregistration_tokenvalidity
func (s *Service) tokenValidity(ctx context.Context, r *route.Request) (any, error) {
	if !r.QueryValues().Has("token") {
		return nil, mx.Errorf(mx.MissingParam, "token is missing.")
	}
	ok, err := s.o.Accounts.InviteValid(ctx, r.Query("token"))
	if err != nil {
		return nil, err
	}
	return map[string]bool{"valid": ok}, nil
}

// changePassword answers POST /account/password. Who is not signed in proves an
// e-mail address of the account. Spec: cs#post_matrixclientv3accountpassword
func (s *Service) changePassword(ctx context.Context, r *route.Request, in struct {
	Auth     mx.Raw `json:"auth"`
	Password string `json:"new_password"`
	Logout   *bool  `json:"logout_devices"`
}) (route.Empty, error) {
	if in.Password == "" {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "new_password is missing.")
	}
	if err := s.o.Accounts.CheckPassword(in.Password); err != nil {
		return route.Empty{}, err
	}
	userID := r.UserID
	if userID == "" {
		if !s.mailReady() {
			return route.Empty{}, mx.Errorf(mx.MissingToken, "Send an access token in the Authorization header. This server has no mail server, by which others could prove who they are.")
		}
		done, err := s.uia.step(ctx, s, r, in.Auth, "", [][]string{{stageEmail}}, func(ctx context.Context, a auth) error {
			_, err := s.provedEmail(ctx, ProofPassword, a)
			return err
		})
		if err != nil {
			return route.Empty{}, err
		}
		p, err := s.o.Accounts.UseEmail(ctx, ProofPassword, done.email.SID, done.email.Secret)
		if err != nil {
			return route.Empty{}, err
		}
		userID = p.Owner
	} else if err := s.Confirm(ctx, r); err != nil {
		return route.Empty{}, err
	}
	return route.Empty{}, s.o.Accounts.SetPassword(ctx, userID, in.Password, r.DeviceID, in.Logout == nil || *in.Logout)
}

// deactivate answers POST /account/deactivate. Spec: cs#post_matrixclientv3accountdeactivate
func (s *Service) deactivate(ctx context.Context, r *route.Request, in struct {
	Erase bool `json:"erase"`
}) (any, error) {
	if err := s.Confirm(ctx, r); err != nil {
		return nil, err
	}
	unbound, err := s.unbindResult(ctx, r.UserID)
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.o.Accounts.Deactivate(ctx, r.UserID); err != nil {
		return nil, err
	}
	if in.Erase && s.o.Erase != nil {
		if err := s.o.Erase(ctx, r.UserID); err != nil {
			return nil, err
		}
	}
	return map[string]string{"id_server_unbind_result": unbound}, nil
}
