package account

import (
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// Mailer sends e-mail.
type Mailer interface {
	// Ready reports whether a mail server is set.
	Ready() bool
	Send(ctx context.Context, to, subject, text string) error
}

// What an e-mail address is proved for. A proof is good for that alone.
const (
	ProofRegister = "register"
	ProofAdd      = "add"
	ProofPassword = "password"
)

// Emails is what the identity provider keeps of e-mail addresses. Errors for the
// client are *mx.Error; others are transient.
type Emails interface {
	// CanonicalEmail is an address as it is kept and compared. Errors: InvalidParam.
	CanonicalEmail(address string) (string, error)
	// EmailOwner is whose address it is, or "".
	EmailOwner(ctx context.Context, address string) (userID string, err error)
	Emails(ctx context.Context, userID string) ([]Email, error)
	// AddEmail errors: ThreepidAuthFailed, ThreepidInUse, ThreepidDenied.
	AddEmail(ctx context.Context, userID, sid, secret string) error
	RemoveEmail(ctx context.Context, userID, address string) error
	// BeginEmail errors: LimitExceeded.
	BeginEmail(ctx context.Context, r EmailRequest) (EmailTicket, error)
	// EmailByToken errors: TokenIncorrect, SessionExpired.
	EmailByToken(ctx context.Context, sid, token string) (EmailProof, error)
	// SubmitEmail proves an address. secret nil: on the page of the mail. Errors as EmailByToken.
	SubmitEmail(ctx context.Context, sid string, secret *string, token string) (EmailProof, error)
	// ProvedEmail and UseEmail errors: ThreepidAuthFailed. UseEmail uses it up.
	ProvedEmail(ctx context.Context, purpose, sid, secret string) (EmailProof, error)
	UseEmail(ctx context.Context, purpose, sid, secret string) (EmailProof, error)
}

// Email is an address of an account.
type Email struct {
	Address          string
	Validated, Added time.Time
}

// EmailRequest asks to prove an address.
type EmailRequest struct {
	Purpose, Address, Secret string
	Attempt                  int64
	NextLink                 string
}

// EmailTicket says what to send. An empty Token means that the address does not
// suit the purpose; Owner is whose it is.
type EmailTicket struct {
	SID, Token, Owner string
	Send              bool
	Hours             int // how long the token is good
	// NotSent takes the ticket back.
	NotSent func(context.Context) error
}

// EmailProof is a proof, done or not. Owner is only known where a password is asked for.
type EmailProof struct{ SID, Purpose, Address, Owner, NextLink string }

const mediumEmail, mediumPhone = "email", "msisdn"

// submitPath is where mails lead to, and where clients submit what was mailed.
const submitPath = "/_matrix/client/unstable/holdfast/email/submit_token"

// maxNextLink bounds next_link, in bytes.
const maxNextLink = 2048

func (s *Service) mailReady() bool { return s.o.Mail != nil && s.o.Mail.Ready() }

var errNoMail = &mx.Error{Code: mx.ThreepidDenied, Msg: "This server cannot send e-mail: no mail server is set. Go on without an e-mail address, or have the administrator set one (holdfast mail set)."}

// noPhones refuses phone numbers with the code that the operation has for it.
func noPhones(code mx.Code) *route.Refusal {
	return &route.Refusal{
		Reason: "An appliance sends no text messages: that takes a provider outside, who would learn the numbers.",
		Answer: mx.Errorf(code, "This server does not use phone numbers. Use an e-mail address."),
	}
}

// noIdentityServers refuses to publish an address.
var noIdentityServers = &route.Refusal{
	Reason: "No identity server is trusted: it would learn who is who, and a closed network has none.",
	Answer: mx.Errorf(mx.ServerNotTrusted, "This server uses no identity servers. Add the address to the account without one."),
}

// opaque reports whether a value keeps to the grammar of client secrets and session IDs.
func opaque(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(".=_-", r))
	})
}

func checkOpaque(name, value string) error {
	if value == "" {
		return mx.Errorf(mx.MissingParam, "%s is missing.", name)
	}
	if !opaque(value) {
		return mx.Errorf(mx.InvalidParam, "%s has at most 255 characters of 0-9 a-z A-Z . = _ -", name)
	}
	return nil
}

func checkNextLink(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || len(s) > maxNextLink || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || strings.ContainsAny(u.Host, ";,'\"") {
		return mx.Errorf(mx.InvalidParam, "next_link must be an http or https address of at most %d bytes.", maxNextLink)
	}
	return nil
}

type tokenRequest struct {
	Secret   string `json:"client_secret"`
	Email    string `json:"email"`
	Attempt  *int64 `json:"send_attempt"`
	NextLink string `json:"next_link"`
}

type tokenResponse struct {
	SID       string `json:"sid"`
	SubmitURL string `json:"submit_url"`
}

// requestToken answers the operations that mail a token, for one purpose. What the
// mail says depends on whose the address is; the answer does not, but for a
// signed-in person who adds one. An id_server is of no matter, as we do it ourselves.
// Spec: cs#post_matrixclientv3registeremailrequesttoken and its siblings
func (s *Service) requestToken(purpose string) func(context.Context, *route.Request, tokenRequest) (tokenResponse, error) {
	return func(ctx context.Context, r *route.Request, in tokenRequest) (out tokenResponse, err error) {
		if err := checkOpaque("client_secret", in.Secret); err != nil {
			return out, err
		}
		if in.Email == "" {
			return out, mx.Errorf(mx.MissingParam, "email is missing.")
		}
		if in.Attempt == nil {
			return out, mx.Errorf(mx.MissingParam, "send_attempt is missing.")
		}
		if err := checkNextLink(in.NextLink); err != nil {
			return out, err
		}
		address, err := s.o.Accounts.CanonicalEmail(in.Email)
		if err != nil {
			return out, err
		}
		if !s.mailReady() {
			return out, errNoMail
		}
		if purpose == ProofAdd && r.UserID != "" {
			if err := s.mayChangeEmails(ctx, r.UserID); err != nil {
				return out, err
			}
			owner, err := s.o.Accounts.EmailOwner(ctx, address)
			if err != nil {
				return out, err
			}
			if owner != "" {
				return out, mx.Errorf(mx.ThreepidInUse, "This e-mail address belongs to an account already.")
			}
		}
		sid, err := s.sendProof(ctx, r, EmailRequest{Purpose: purpose, Address: address, Secret: in.Secret, Attempt: *in.Attempt, NextLink: in.NextLink})
		return tokenResponse{sid, s.o.PublicURL(r.Request) + submitPath}, err
	}
}

// sendProof begins to prove an address, and mails what the person needs for it.
// Errors: LimitExceeded, EmailSendError.
func (s *Service) sendProof(ctx context.Context, r *route.Request, req EmailRequest) (sid string, err error) {
	ctx = context.WithoutCancel(ctx) // a mail that went out is one that went out
	t, err := s.o.Accounts.BeginEmail(ctx, req)
	if err != nil || !t.Send {
		return t.SID, err
	}
	subject, text := s.mail(req.Purpose, req.Address, t, s.o.PublicURL(r.Request)+submitPath)
	if err := s.o.Mail.Send(ctx, req.Address, subject, text); err != nil {
		s.o.Log.Warn("an e-mail could not be sent; holdfast mail test finds out more", "err", err)
		return "", errors.Join(t.NotSent(ctx), &mx.Error{Code: mx.EmailSendError, Msg: "The e-mail could not be sent. Check the address, and try again later."})
	}
	return t.SID, nil
}

// mail is what is sent for a ticket.
func (s *Service) mail(purpose, address string, t EmailTicket, submit string) (subject, text string) {
	key := "mail." + purpose
	if t.Token == "" {
		key = "mail.taken"
		if purpose == ProofPassword {
			key = "mail.unknown"
		}
	}
	link := submit + "?" + url.Values{"sid": {t.SID}, "token": {t.Token}}.Encode()
	fill := strings.NewReplacer("{server}", s.o.ServerName, "{address}", address, "{user}", t.Owner, "{link}", link, "{code}", t.Token, "{hours}", strconv.Itoa(t.Hours))
	return fill.Replace(s.text(key + ".subject")), fill.Replace(s.text(key+".text")) + "\n"
}

// emailPage asks the person who got a mail whether it is right. Looking at it
// changes nothing: mail programs and scanners follow links.
func (s *Service) emailPage(ctx context.Context, r *route.Request) (any, error) {
	p, err := s.o.Accounts.EmailByToken(ctx, r.Query("sid"), r.Query("token"))
	if answer, err := s.emailProblem(err); answer != nil || err != nil {
		return answer, err
	}
	text := s.text("identity.email.text." + p.Purpose)
	if p.NextLink != "" {
		text += " " + s.text("identity.email.next")
	}
	u, _ := url.Parse(p.NextLink)
	fill := strings.NewReplacer("{address}", p.Address, "{user}", p.Owner, "{server}", s.o.ServerName, "{host}", u.Host)
	return page{Title: s.text("identity.email.title"), Text: fill.Replace(text), Submit: s.text("identity.email.submit"), Next: p.NextLink,
		Hidden: map[string]string{"sid": r.Query("sid"), "token": r.Query("token"), "page": "1"}}.show(http.StatusOK), nil
}

// emailProblem is the page about a token that is no good.
func (s *Service) emailProblem(err error) (http.HandlerFunc, error) {
	var e *mx.Error
	if err == nil || !errors.As(err, &e) {
		return nil, err
	}
	return s.say(http.StatusBadRequest, "email.expired"), nil
}

// submitEmail proves an address: by the page's form, or by a client to which the
// person gave the code. Spec: is#post_matrixidentityv2validateemailsubmittoken
func (s *Service) submitEmail(ctx context.Context, r *route.Request) (any, error) {
	var in struct {
		SID    string `json:"sid"`
		Secret string `json:"client_secret"`
		Token  string `json:"token"`
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(r.RawBody()))
		if err != nil {
			return nil, mx.Errorf(mx.InvalidParam, "The form is not valid.")
		}
		if form.Has("page") {
			return s.submitPage(ctx, r, form)
		}
		in.SID, in.Secret, in.Token = form.Get("sid"), form.Get("client_secret"), form.Get("token")
	} else if err := json.Unmarshal(r.RawBody(), &in); err != nil {
		return nil, mx.Errorf(mx.NotJSON, "The request must be a JSON object with sid, client_secret and token.")
	}
	if err := checkOpaque("sid", in.SID); err != nil {
		return nil, err
	}
	if err := checkOpaque("client_secret", in.Secret); err != nil {
		return nil, err
	}
	if in.Token == "" {
		return nil, mx.Errorf(mx.MissingParam, "token is missing.")
	}
	if _, err := s.o.Accounts.SubmitEmail(ctx, in.SID, &in.Secret, in.Token); err != nil {
		return nil, err
	}
	return map[string]bool{"success": true}, nil
}

// submitPage is submitEmail for the page of the mail.
func (s *Service) submitPage(ctx context.Context, r *route.Request, form url.Values) (any, error) {
	if err := http.NewCrossOriginProtection().Check(r.Request); err != nil {
		return s.say(http.StatusForbidden, "crossSite"), nil
	}
	p, err := s.o.Accounts.SubmitEmail(ctx, form.Get("sid"), nil, form.Get("token"))
	if answer, err := s.emailProblem(err); answer != nil || err != nil {
		return answer, err
	}
	if p.NextLink != "" {
		return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Referrer-Policy", "no-referrer")
			http.Redirect(w, hr, p.NextLink, http.StatusSeeOther)
		}), nil
	}
	return s.say(http.StatusOK, "email.done"), nil
}

// provedEmail finds the proof that an auth object names.
func (s *Service) provedEmail(ctx context.Context, purpose string, a auth) (EmailProof, error) {
	if a.Email == nil || a.Email.SID == "" || a.Email.Secret == "" {
		return EmailProof{}, mx.Errorf(mx.MissingParam, "threepid_creds needs sid and client_secret.")
	}
	p, err := s.o.Accounts.ProvedEmail(ctx, purpose, a.Email.SID, a.Email.Secret)
	var e *mx.Error
	if errors.As(err, &e) {
		// Clients ask again and again, and take this code for "not yet".
		err = mx.Errorf(mx.Unauthorized, "The e-mail address is not confirmed yet. Open the link of the mail first.")
	}
	return p, err
}

// threepid is an address in the form of the API.
type threepid struct {
	Medium      string `json:"medium"`
	Address     string `json:"address"`
	ValidatedAt int64  `json:"validated_at"`
	AddedAt     int64  `json:"added_at"`
}

// threepids answers GET /account/3pid. Spec: cs#get_matrixclientv3account3pid
func (s *Service) threepids(ctx context.Context, r *route.Request) (any, error) {
	list, err := s.o.Accounts.Emails(ctx, r.UserID)
	if err != nil {
		return nil, err
	}
	out := []threepid{}
	for _, e := range list {
		out = append(out, threepid{mediumEmail, e.Address, e.Validated.UnixMilli(), e.Added.UnixMilli()})
	}
	return map[string]any{"threepids": out}, nil
}

// add3PID answers POST /account/3pid/add. Spec: cs#post_matrixclientv3account3pidadd
func (s *Service) add3PID(ctx context.Context, r *route.Request, in threepidCreds) (route.Empty, error) {
	return route.Empty{}, s.addEmail(ctx, r, in, 0)
}

// post3PIDs answers the deprecated POST /account/3pid, which does the same. It asks
// for a confirmation, too: whoever has an account's address can set its password.
// Spec: cs#post_matrixclientv3account3pid
func (s *Service) post3PIDs(ctx context.Context, r *route.Request, in struct {
	Creds *threepidCreds `json:"three_pid_creds"`
}) (route.Empty, error) {
	if in.Creds == nil {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "three_pid_creds is missing.")
	}
	return route.Empty{}, s.addEmail(ctx, r, *in.Creds, http.StatusForbidden)
}

// mayChangeEmails refuses that a person changes addresses that follow a directory.
func (s *Service) mayChangeEmails(ctx context.Context, userID string) error {
	k, err := s.o.Kept(ctx, userID)
	if err == nil && k.Emails {
		err = k.Refuse("The e-mail address of this account")
	}
	return err
}

// addEmail adds a proved address. unproved is the status for one that is not.
func (s *Service) addEmail(ctx context.Context, r *route.Request, c threepidCreds, unproved int) error {
	if err := checkOpaque("sid", c.SID); err != nil {
		return err
	}
	if err := checkOpaque("client_secret", c.Secret); err != nil {
		return err
	}
	// Before the person is asked for a password in vain.
	if err := s.mayChangeEmails(ctx, r.UserID); err != nil {
		return err
	}
	if _, err := s.o.Accounts.ProvedEmail(ctx, ProofAdd, c.SID, c.Secret); err != nil {
		var e *mx.Error
		if errors.As(err, &e) {
			err = &mx.Error{Code: e.Code, Msg: e.Msg, Status: unproved}
		}
		return err
	}
	if err := s.Confirm(ctx, r); err != nil {
		return err
	}
	return s.o.Accounts.AddEmail(ctx, r.UserID, c.SID, c.Secret)
}

type threepidRequest struct {
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

func (in threepidRequest) check() error {
	if in.Medium == "" || in.Address == "" {
		return mx.Errorf(mx.MissingParam, "medium and address are needed.")
	}
	if !slices.Contains([]string{mediumEmail, mediumPhone}, in.Medium) {
		return mx.Errorf(mx.InvalidParam, "The medium is email or msisdn.")
	}
	return nil
}

// unbound is what there is to say about identity servers: none is known.
var unbound = map[string]string{"id_server_unbind_result": "no-support"}

// unbind3PID answers POST /account/3pid/unbind: nothing was bound by us.
// Spec: cs#post_matrixclientv3account3pidunbind
func (s *Service) unbind3PID(_ context.Context, _ *route.Request, in threepidRequest) (any, error) {
	return unbound, in.check()
}

// delete3PID answers POST /account/3pid/delete. Spec: cs#post_matrixclientv3account3piddelete
func (s *Service) delete3PID(ctx context.Context, r *route.Request, in threepidRequest) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	// A suspended person may add addresses, and not remove any: they are how to reach them.
	if err := r.NotSuspended(); err != nil {
		return nil, err
	}
	if in.Medium == mediumEmail {
		if err := s.mayChangeEmails(ctx, r.UserID); err != nil {
			return nil, err
		}
		address, err := s.o.Accounts.CanonicalEmail(in.Address)
		if err != nil {
			return nil, err
		}
		if err := s.o.Accounts.RemoveEmail(ctx, r.UserID, address); err != nil {
			return nil, err
		}
	}
	return unbound, nil
}

// unbindResult is what a closed account is told: success where there is nothing to
// unbind. Spec: cs#post_matrixclientv3accountdeactivate
func (s *Service) unbindResult(ctx context.Context, userID string) (string, error) {
	list, err := s.o.Accounts.Emails(ctx, userID)
	if err != nil || len(list) > 0 {
		return "no-support", err
	}
	return "success", nil
}
