package web

import (
	"context"
	"net/http"
)

// Settings are what administrators decide about the appliance, apart from its people.
type Settings interface {
	MailServer(ctx context.Context) (MailServer, error)
	// SetMailServer checks and keeps a mail server; one without a host turns e-mail
	// off. Errors: *Error for what must be corrected.
	SetMailServer(ctx context.Context, m MailServer) error
	// TestMail sends a message. Errors: *Error with what the mail server said.
	TestMail(ctx context.Context, to string) error
	FileRules(ctx context.Context) (FileRules, error)
	// SetFileRules changes the rules that are not empty. Errors: *Error with Field.
	SetFileRules(ctx context.Context, f FileRules) error
	SignIn(ctx context.Context) (SignIn, error)
	// SetSignIn changes the rules of signing in. Errors: *Error with Field.
	SetSignIn(ctx context.Context, s SignIn) error
}

// SignIn is how people sign in, and who must have a second factor.
type SignIn struct {
	Password      bool     `json:"password"`       // the legacy login with a password
	SSO           bool     `json:"sso"`            // the legacy login through the browser
	PasswordAlone bool     `json:"password_alone"` // the first also where there is a second factor
	SecondFactor  string   `json:"second_factor"`  // who must have one: "nobody", "roles" or "everyone"
	Groups        []string `json:"groups"`         // whose members must, too
	GraceDays     int      `json:"grace_days"`     // for how long it can be put off
	PasswordMin   int      `json:"password_min"`   // characters of a new password; 0: as it is
	SessionMax    string   `json:"session_max"`    // how long browsers stay signed in, as 30d; "": as it is
	SessionIdle   string   `json:"session_idle"`   // the same without use, as 12h, or "none"; "": as it is
	// What there is, and not decided here.
	AllGroups []string `json:"all_groups"`
	Due       string   `json:"due,omitempty"` // from when on it cannot be put off, RFC 3339
	Wanted    int      `json:"wanted"`        // people who must have one
	Missing   int      `json:"missing"`       // those of them who have none
}

// MailServer is where e-mail is handed in. The password goes in, never out.
type MailServer struct {
	Host        string `json:"host"` // "": no e-mail is sent
	Port        int    `json:"port"`
	Security    string `json:"security"` // "starttls", "tls" or "none"
	User        string `json:"user"`
	Password    string `json:"password,omitempty"` // "": the one that there is, for the same host and user
	HasPassword bool   `json:"has_password"`
	From        string `json:"from"`
	CA          string `json:"ca,omitempty"` // PEM of the one authority that is trusted
}

// FileRules are the rules for uploaded files, as they are typed: sizes such as
// "200M" or "none", times such as "365d" or "forever".
type FileRules struct {
	MaxUpload string `json:"max_upload"`
	Quota     string `json:"quota"`
	Total     string `json:"total"`
	Keep      string `json:"keep"`
	Open      string `json:"open"` // what is given out without signing in: "never", "always", or what is from before a day
}

func (s *Server) settingsRoutes(handle func(pattern string, f func(r *http.Request, admin string) (any, error))) {
	mail := func(r *http.Request) (any, error) { return s.Settings.MailServer(r.Context()) }
	files := func(r *http.Request) (any, error) { return s.Settings.FileRules(r.Context()) }
	handle("GET /api/console/mail", func(r *http.Request, _ string) (any, error) { return mail(r) })
	handle("PUT /api/console/mail", func(r *http.Request, _ string) (any, error) {
		var in MailServer
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if err := s.Settings.SetMailServer(r.Context(), in); err != nil {
			return nil, err
		}
		return mail(r)
	})
	handle("POST /api/console/mail/test", func(r *http.Request, _ string) (any, error) {
		var in struct {
			To string `json:"to"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Settings.TestMail(r.Context(), in.To)
	})
	signIn := func(r *http.Request) (any, error) { return s.Settings.SignIn(r.Context()) }
	handle("GET /api/console/signin", func(r *http.Request, _ string) (any, error) { return signIn(r) })
	handle("PUT /api/console/signin", func(r *http.Request, _ string) (any, error) {
		var in SignIn
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if err := s.Settings.SetSignIn(r.Context(), in); err != nil {
			return nil, err
		}
		return signIn(r)
	})
	handle("GET /api/console/files", func(r *http.Request, _ string) (any, error) { return files(r) })
	handle("PUT /api/console/files", func(r *http.Request, _ string) (any, error) {
		var in FileRules
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if err := s.Settings.SetFileRules(r.Context(), in); err != nil {
			return nil, err
		}
		return files(r)
	})
	handle("GET /api/console/previews", func(r *http.Request, _ string) (any, error) { return s.Previews.LinkPreviews(r.Context()) })
	handle("PUT /api/console/previews", func(r *http.Request, _ string) (any, error) {
		var in LinkPreviews
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if err := s.Previews.SetLinkPreviews(r.Context(), in); err != nil {
			return nil, err
		}
		return s.Previews.LinkPreviews(r.Context())
	})
}
