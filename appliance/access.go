package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"holdfast/identity"
	"holdfast/identity/directory"
	"holdfast/identity/roster"
	"holdfast/identity/saml"
	"holdfast/identity/upstream"
	"holdfast/store/audit"
	"holdfast/web"
)

// This file has the audit log, applications and directories for the console.

func (a console) AuditLog(ctx context.Context, f web.AuditFilter) ([]web.AuditEntry, error) {
	list, err := a.audit.Find(ctx, audit.Filter{Actor: f.Actor, Target: f.Target, Event: f.Event, Since: f.Since, Until: f.Until, Before: f.Before})
	out := make([]web.AuditEntry, 0, len(list))
	for _, e := range toAuditEntries(list) {
		out = append(out, web.AuditEntry(e))
	}
	return out, err
}

func (a console) VerifyAudit(ctx context.Context) (web.AuditReport, error) {
	r, err := a.audit.Verify(ctx)
	if err != nil {
		return web.AuditReport{}, err
	}
	out := web.AuditReport{OK: r.OK(), Entries: r.Entries, Last: r.Last, Hash: r.Hash, Problems: []string{}, Notes: append([]string{}, r.Notes...)}
	for _, p := range r.Problems {
		if p.Seq > 0 {
			p.Text = fmt.Sprintf("Entry %d: %s", p.Seq, p.Text)
		}
		out.Problems = append(out.Problems, p.Text)
	}
	return out, nil
}

func (a console) ExportAudit(ctx context.Context, w io.Writer, f web.AuditFilter, asCSV bool) error {
	return a.exportAudit(ctx, w, audit.Filter{Since: f.Since, Until: f.Until}, asCSV)
}

// appError is an error about applications as the console shows it.
func appError(err error) error {
	var wrong *identity.AppError
	bad := func(status int, code, field, text string) error {
		return &web.Error{Status: status, Code: code, Field: field, Message: text}
	}
	switch {
	case errors.As(err, &wrong):
		return bad(http.StatusBadRequest, "bad_app", "", wrong.Msg)
	case errors.Is(err, identity.ErrApps):
		return bad(http.StatusConflict, "many_apps", "", "There are too many applications. Remove one that is not used any more.")
	case errors.Is(err, identity.ErrNoApp):
		return bad(http.StatusNotFound, "not_found", "", "There is no such application any more.")
	case errors.Is(err, identity.ErrSecrets):
		return bad(http.StatusConflict, "two_secrets", "", "The application has two secrets already. Remove the older one first.")
	case errors.Is(err, identity.ErrNoSecret):
		return bad(http.StatusNotFound, "not_found", "", "The application has no such secret any more.")
	case errors.Is(err, identity.ErrPublic):
		return bad(http.StatusConflict, "no_secret", "", "This application does not prove itself by a secret.")
	}
	return err
}

func (a console) toApp(x *identity.App) web.App {
	out := web.App{ID: x.ID, Name: x.Name, Template: x.Template, Issuer: a.sharedURL(), Redirects: x.RedirectURIs, Groups: []string{}, Gone: []string{}, Logout: web.AppLogout{URL: x.BackchannelURI, CA: x.CA},
		Disabled: x.Disabled, LastUsed: x.LastUsed, Secrets: []web.AppSecret{}}
	for _, s := range x.Secrets {
		out.Secrets = append(out.Secrets, web.AppSecret{ID: s.ID, Created: s.Created, LastUsed: s.LastUsed})
	}
	for _, g := range x.Access {
		if g.Gone {
			out.Gone = append(out.Gone, g.Name)
		} else {
			out.Groups = append(out.Groups, g.Name)
		}
	}
	return out
}

func (a console) Apps(ctx context.Context) ([]web.App, error) {
	list, err := a.id().Apps(ctx)
	out := make([]web.App, 0, len(list))
	for _, x := range list {
		out = append(out, a.toApp(x))
	}
	return out, err
}

func (a console) app(ctx context.Context, id string) (web.App, error) {
	all, err := a.Apps(ctx)
	for _, x := range all {
		if x.ID == id {
			return x, nil
		}
	}
	if err == nil {
		err = appError(identity.ErrNoApp)
	}
	return web.App{}, err
}

func (a console) CreateApp(ctx context.Context, n web.NewApp) (web.App, error) {
	c, err := identity.AppTemplate(n.Template, n.Name, n.URL)
	if err != nil {
		return web.App{}, appError(err)
	}
	c.RedirectURIs = append(c.RedirectURIs, n.Redirects...)
	c.Groups, c.SkipConsent = n.Groups, n.SkipConsent
	x, secret, err := a.id().CreateApp(ctx, c, web.Caller(ctx))
	if err != nil {
		return web.App{}, appError(err)
	}
	out := a.toApp(x)
	out.Secret = secret
	return out, nil
}

func (a console) AddAppSecret(ctx context.Context, id string) (web.App, error) {
	secret, err := a.id().AddAppSecret(ctx, id)
	if err != nil {
		return web.App{}, appError(err)
	}
	x, err := a.app(ctx, id)
	x.Secret = secret
	return x, err
}

func (a console) RemoveAppSecret(ctx context.Context, id, secret string) error {
	return appError(a.id().DeleteAppSecret(ctx, id, secret))
}

func (a console) SetAppDisabled(ctx context.Context, id string, disabled bool) error {
	_, err := a.id().ChangeApp(ctx, id, func(x *identity.App) error { x.Disabled = disabled; return nil })
	return appError(err)
}

func (a console) SetAppGroups(ctx context.Context, id string, groups []string) error {
	_, err := a.id().ChangeApp(ctx, id, func(x *identity.App) error { x.Groups = append([]string{}, groups...); return nil })
	return appError(err)
}

func (a console) SetAppLogout(ctx context.Context, id string, l web.AppLogout) error {
	_, err := a.id().ChangeApp(ctx, id, func(x *identity.App) error { x.BackchannelURI, x.CA = l.URL, l.CA; return nil })
	return appError(err)
}

func (a console) RemoveApp(ctx context.Context, id string) error {
	return appError(a.id().DeleteApp(ctx, id))
}

func (a console) Keys(ctx context.Context) ([]web.Key, error) {
	list, err := a.id().SigningKeys(ctx)
	out := make([]web.Key, 0, len(list))
	for _, k := range list {
		out = append(out, web.Key{ID: k.ID, State: k.State, From: k.From})
	}
	return out, err
}

func (a console) RotateKey(ctx context.Context, atOnce bool) error {
	return a.id().RotateKey(ctx, atOnce)
}

// sourceTroubles are the mistakes about where people come from, directories and providers,
// that somebody can do something about.
var sourceTroubles = []trouble{
	{roster.ErrNoDirectory, http.StatusNotFound, "not_found", "", "There is no such directory, or its settings cannot be read. Set it anew."},
	{upstream.ErrNone, http.StatusNotFound, "not_found", "", "There is no such provider, or its settings cannot be read. Set it anew."},
	{roster.ErrBadID, http.StatusBadRequest, "bad_id", "id", "A directory's short name has 1 to 30 of a-z, 0-9 and -."},
	{upstream.ErrID, http.StatusBadRequest, "bad_id", "id", "A provider's short name has 1 to 30 of a-z, 0-9 and -."},
	{roster.ErrTooMany, http.StatusConflict, "too_many", "", "There are as many directories as can be."},
	{upstream.ErrTooMany, http.StatusConflict, "too_many", "", "There are as many providers as can be."},
	{directory.ErrConfig, http.StatusBadRequest, "bad_directory", "", "These settings cannot work: %s."},
	{saml.ErrMetadata, http.StatusBadRequest, "bad_metadata", "metadata", "The metadata cannot be used: %s."},
	{upstream.ErrSettings, http.StatusBadRequest, "bad_provider", "", "These settings cannot work: %s."},
	{directory.ErrUnavailable, http.StatusBadGateway, "down", "", "The directory gave no answer: %s."},
	{directory.ErrRefused, http.StatusBadGateway, "down", "", "The directory does not let the reader in: %s."},
	{upstream.ErrDown, http.StatusBadGateway, "down", "", "The provider gave no answer that can be used: %s."},
}

// sourceError is an error about directories and providers as the console shows it.
func sourceError(err error) error {
	if shown, ok := told(err, sourceTroubles); ok {
		return shown
	}
	return err
}

func (a console) Directories(ctx context.Context) ([]web.Directory, error) {
	list, err := a.id().Directories().List(ctx)
	out := make([]web.Directory, 0, len(list))
	some := func(s []string) []string { return append([]string{}, s...) }
	for _, d := range list {
		c, r := d.Config, d.Report
		out = append(out, web.Directory{ID: d.ID, Settings: web.DirectorySettings{Kind: c.Kind, URLs: some(c.URLs), BaseDN: c.BaseDN, BindDN: c.BindDN, CA: c.CA,
			UserFilter: c.UserFilter, GroupFilter: c.GroupFilter, Everyone: c.Everyone, Names: c.Names, Pictures: c.Pictures, Mail: c.Mail,
			FullAttr: c.FullAttr, MailAttr: c.MailAttr, PictureAttr: c.PictureAttr},
			Synced: d.Synced, People: r.People, Accounts: r.Accounts, Made: some(r.Made), Locked: some(r.Locked), Unlocked: some(r.Unlocked), Taken: some(r.Taken),
			GroupsRenamed: some(r.GroupsRenamed), GroupsTaken: some(r.GroupsTaken), MailTaken: some(r.MailTaken), PicturesLeft: some(r.PicturesLeft),
			Alarm: r.Alarm, Error: r.Error, Down: d.Down})
	}
	return out, err
}

// SetDirectory keeps what only the command line sets.
func (a console) SetDirectory(ctx context.Context, id string, d web.DirectorySettings) error {
	list, err := a.id().Directories().List(ctx)
	if err != nil {
		return err
	}
	var c roster.Config
	for _, x := range list {
		if x.ID == id {
			c = x.Config
		}
	}
	before := directory.Config{Kind: c.Kind}.Defaults()
	c.Kind, c.URLs, c.BaseDN, c.BindDN, c.Password, c.CA = d.Kind, d.URLs, d.BaseDN, d.BindDN, d.Password, d.CA
	c.UserFilter, c.GroupFilter, c.Everyone = d.UserFilter, d.GroupFilter, d.Everyone
	c.Names, c.Pictures, c.Mail = d.Names, d.Pictures, d.Mail
	c.FullAttr, c.MailAttr, c.PictureAttr = d.FullAttr, d.MailAttr, d.PictureAttr
	if c.Kind != before.Kind { // what suited the other kind
		for set, usual := range map[*string]string{&c.UserFilter: before.UserFilter, &c.IDAttr: before.IDAttr, &c.NameAttr: before.NameAttr,
			&c.PictureAttr: before.PictureAttr, &c.GroupFilter: before.GroupFilter, &c.GroupIDAttr: before.GroupIDAttr} {
			if *set == usual {
				*set = ""
			}
		}
		if slices.Equal(c.LoginAttrs, before.LoginAttrs) {
			c.LoginAttrs = nil
		}
	}
	return sourceError(a.id().Directories().Set(ctx, id, c))
}

func (a console) TestDirectory(ctx context.Context, id string) (web.DirectoryTest, error) {
	t, err := a.id().Directories().Test(ctx, id)
	if err != nil {
		return web.DirectoryTest{}, sourceError(err)
	}
	out := web.DirectoryTest{People: t.People, Groups: t.Groups, First: []web.DirectoryPerson{}}
	for _, p := range t.First {
		groups := []string{}
		for _, g := range p.Groups {
			groups = append(groups, g.Name)
		}
		out.First = append(out.First, web.DirectoryPerson{Name: p.Name, Full: p.Full, Mail: p.Mail, Picture: p.Picture, Groups: groups})
	}
	return out, nil
}

func (a console) SyncDirectory(ctx context.Context, id string, anyway bool) error {
	_, err := a.id().Directories().Sync(ctx, id, anyway)
	if errors.Is(err, roster.ErrAlarm) {
		return nil // the report says it
	}
	return sourceError(err)
}

func (a console) RemoveDirectory(ctx context.Context, id string) error {
	return sourceError(a.id().Directories().Remove(ctx, id))
}

func (a console) Providers(ctx context.Context) ([]web.Provider, error) {
	list, err := a.id().Upstreams().List(ctx)
	out := make([]web.Provider, 0, len(list))
	some := func(s []string) []string { return append([]string{}, s...) }
	for _, p := range list {
		c := p.Config
		groups := map[string]string{}
		maps.Copy(groups, c.Groups)
		x := web.Provider{ID: p.ID, Kind: "openid", Secret: p.Secret, People: p.People, Asked: p.Asked, Down: p.Down, Unheard: p.Unheard,
			Settings: web.ProviderSettings{Name: c.Name, Issuer: c.Issuer, ClientID: c.ClientID, CA: c.CA, Scopes: some(c.Scopes), UserClaim: c.UserClaim, NameClaim: c.NameClaim,
				NameFollows: c.NameFollows, MailClaim: c.MailClaim, MailTrusted: c.MailTrusted, MailTaken: c.MailTaken, GroupsClaim: c.GroupsClaim, Groups: groups,
				RequireClaim: c.RequireClaim, RequireValues: some(c.RequireValues), Domains: some(c.Domains), Closed: c.Closed, Prompt: c.Prompt, ACRs: some(c.ACRs),
				RequireACR: c.RequireACR, RequireMFA: c.RequireMFA, TrustMFA: c.TrustMFA, SignOut: c.SignOut, SubjectClaim: c.SubjectClaim}}
		if p.SAML == nil {
			x.Redirect = a.sharedURL() + "/upstream/" + p.ID + "/callback"
		} else {
			x.Kind, x.SAML = "saml", a.toSAML(p)
		}
		out = append(out, x)
	}
	return out, err
}

func (a console) provider(ctx context.Context, id string) (upstream.Provider, error) {
	list, err := a.id().Upstreams().List(ctx)
	for _, p := range list {
		if p.ID == id {
			return p, nil
		}
	}
	if err == nil {
		err = sourceError(upstream.ErrNone)
	}
	return upstream.Provider{}, err
}

// SetProvider adds a provider or changes it; one stays of its kind.
func (a console) SetProvider(ctx context.Context, id string, f web.ProviderForm) error {
	had, err := a.provider(ctx, id)
	var missing *web.Error
	if err != nil && !errors.As(err, &missing) {
		return err
	}
	if had.Config.Issuer != "" && (had.SAML != nil) != (f.Kind == "saml") {
		return &web.Error{Status: http.StatusConflict, Code: "other_kind", Field: "id", Message: "There is a provider of this short name, which is of another kind. Choose another name, or remove that one first."}
	}
	c, p := had.Config, f.ProviderSettings
	c.Name, c.UserClaim, c.NameClaim, c.NameFollows, c.MailClaim, c.MailTrusted, c.MailTaken = p.Name, p.UserClaim, p.NameClaim, p.NameFollows, p.MailClaim, p.MailTrusted, p.MailTaken
	c.GroupsClaim, c.Groups, c.RequireClaim, c.RequireValues, c.Domains, c.Closed = p.GroupsClaim, p.Groups, p.RequireClaim, p.RequireValues, p.Domains, p.Closed
	c.Prompt, c.ACRs, c.RequireACR, c.RequireMFA, c.TrustMFA = p.Prompt, p.ACRs, p.RequireACR, p.RequireMFA, p.TrustMFA
	if f.Kind == "saml" {
		c.SubjectClaim = p.SubjectClaim
		if c.SAML, err = a.samlForm(ctx, f, c.SAML); err != nil {
			return sourceError(err)
		}
	} else {
		c.Issuer, c.ClientID, c.ClientSecret, c.CA, c.Scopes, c.SignOut = p.Issuer, p.ClientID, p.ClientSecret, p.CA, p.Scopes, p.SignOut
	}
	return sourceError(a.id().Upstreams().Set(ctx, id, c))
}

func (a console) TestProvider(ctx context.Context, id string) (string, error) {
	t, err := a.id().Upstreams().Test(ctx, id)
	return t.Unheard, sourceError(err)
}

func (a console) ProviderPeople(ctx context.Context, id string) (all, only int, err error) {
	p, err := a.provider(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	only, err = a.id().Upstreams().OnlyHere(ctx, id)
	return p.People, only, sourceError(err)
}

func (a console) RemoveProvider(ctx context.Context, id, people string) (int, error) {
	n, err := a.id().Upstreams().Remove(ctx, id, people)
	return n, sourceError(err)
}
