package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"holdfast/appliance/certs"
	"holdfast/appliance/config"
	"holdfast/appliance/settings"
	"holdfast/identity"
	"holdfast/store"
	"holdfast/store/audit"
	"holdfast/web"
)

// setup is web.Setup: the wizard's other half.
type setup struct{ *Appliance }

func (a setup) State(ctx context.Context) (web.State, error) {
	st := web.State{
		State:           "unclaimed",
		Organisation:    a.settings.Get(settings.Organisation),
		ServerName:      a.ServerName(),
		ServerNameFixed: a.nameFixed(),
		PublicURL:       a.sharedURL(),
		TLS:             a.tlsState(),
		Version:         Version,
	}
	claimed, err := a.claimed(ctx)
	if claimed {
		st.State = "claimed"
	}
	return st, err
}

// claimed reports whether the setup is over: the wizard was finished, or an
// administrator was made otherwise (by the command line, or a script).
func (a *Appliance) claimed(ctx context.Context) (bool, error) {
	if a.settings.Get(settings.Claimed) != "" {
		return true, nil
	}
	// While the wizard finishes there is an administrator for a moment already.
	if !a.coreMu.TryLock() {
		return false, nil
	}
	defer a.coreMu.Unlock()
	users, err := a.core.Load().identity.Users(ctx)
	if err != nil {
		return false, err
	}
	for _, u := range users {
		if u.Admin {
			return true, a.settings.Put(ctx, map[string]string{settings.Claimed: "yes", settings.ClaimHash: ""})
		}
	}
	return false, nil
}

func (a *Appliance) tlsState() web.TLS {
	if !a.hasTLS() { // a proxy's business
		return web.TLS{Mode: "off", Fixed: true}
	}
	t := web.TLS{Mode: a.tlsMode(), Fixed: a.cfg.Explicit("tls.mode")}
	if own := a.ownCA(); own != nil {
		t.CAFingerprint, t.CAURL = own.Fingerprint(), "/ca.crt"
	}
	return t
}

func (a setup) Claim(ctx context.Context, code string) error {
	if claimed, err := a.claimed(ctx); err != nil {
		return err
	} else if claimed {
		return errClaimed
	}
	err := a.claim.check(a.settings.Get(settings.ClaimHash), code)
	event := "claim.prove"
	if errors.Is(err, errWrongCode) {
		event = "claim.failed"
	} else if err != nil {
		return err
	}
	noted := a.db.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		return a.audit.Bounded(ctx, tx, event+"|"+audit.WhoOf(ctx).IP, audit.Event{Name: event, Actor: audit.Setup})
	})
	if noted != nil {
		return noted
	}
	return err
}

func (a setup) CheckName(ctx context.Context, name string) (string, error) {
	name = strings.TrimSpace(name)
	if why := config.ValidServerName(name); why != "" {
		return "", &web.Error{Code: "bad_server_name", Field: "server_name", Message: fmt.Sprintf("%q is not a valid server name: %s.", name, why)}
	}
	if a.nameFixed() && name != a.ServerName() {
		return "", &web.Error{Status: http.StatusConflict, Code: "name_fixed", Field: "server_name", Message: fmt.Sprintf("The server name is %s and cannot be changed any more.", a.ServerName())}
	}
	return name, nil
}

func (a setup) Finish(ctx context.Context, c web.Choices) (web.Finished, error) {
	ctx = audit.As(ctx, audit.Setup)
	a.coreMu.Lock()
	defer a.coreMu.Unlock()
	if a.settings.Get(settings.Claimed) != "" {
		return web.Finished{}, errClaimed
	}
	name, err := a.CheckName(ctx, c.ServerName)
	if err != nil {
		return web.Finished{}, err
	}
	next, err := a.prepareTLS(name, c.TLS)
	if err != nil {
		return web.Finished{}, err
	}
	if name != a.ServerName() {
		if err := a.rename(ctx, name); err != nil {
			return web.Finished{}, err
		}
	}
	values := map[string]string{settings.Organisation: strings.TrimSpace(c.Organisation)}
	if next.changed {
		values[settings.TLSMode], values[settings.TLSEmail] = next.mode, next.email
	}
	// The first administrator and the end of the claim code are one transaction: a crash
	// leaves no administrator whose name cannot be typed again, and no second one.
	user, err := a.core.Load().identity.CreateUser(ctx, identity.NewUser{
		Localpart: strings.TrimPrefix(strings.ToLower(strings.TrimSpace(c.Admin.Localpart)), "@"), DisplayName: strings.TrimSpace(c.Admin.DisplayName),
		Password: c.Admin.Password, Admin: true, Source: "setup",
		Also: func(tx *store.Tx, _ identity.User) error {
			if err := a.finishTx(tx); err != nil {
				return err
			}
			return a.settings.PutTx(tx, values)
		},
	})
	if err != nil {
		return web.Finished{}, adminError(err)
	}
	if next.changed {
		if err := a.applyTLS(next); err != nil {
			// The files were checked before; what fails here is the disk or the network.
			a.log.Error("the choice for TLS could not be applied; it will be tried at the next start", "mode", next.mode, "err", err)
			return web.Finished{Restart: true, URL: a.sharedURL(), UserID: user.UserID}, nil
		}
	}
	if own := a.ownCA(); own != nil {
		if err := own.Refresh(); err != nil {
			a.log.Error("no certificate for the new server name", "err", err)
		}
	}
	a.log.Info("the appliance was set up", "server_name", name, "admin", user.UserID)
	return web.Finished{URL: a.sharedURL(), UserID: user.UserID}, nil
}

// adminError tells the wizard what is wrong with the first administrator.
func adminError(err error) error {
	bad := func(field, code, msg string) error {
		return &web.Error{Code: code, Field: "admin." + field, Message: msg}
	}
	var weak *identity.WeakPassword
	switch {
	case errors.As(err, &weak) && weak.Why != "":
		return bad("password", "weak_password", weak.Text())
	case errors.Is(err, identity.ErrUserExists):
		return bad("localpart", "taken", "This user name is taken. Choose another.")
	case errors.Is(err, identity.ErrBadName):
		return bad("localpart", "bad_name", "A user name has small letters, digits and . _ = - / + only, such as anna.meyer.")
	case errors.Is(err, identity.ErrWeakPassword):
		return bad("password", "weak_password", "This password is too easy to guess. Take at least ten characters; several words are good.")
	}
	return err
}

// rename builds homeserver and identity anew with another server name. Callers
// hold coreMu. It is refused once there is an account.
func (a *Appliance) rename(ctx context.Context, name string) error {
	old := a.core.Load()
	users, err := old.identity.Users(ctx)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return &web.Error{Status: http.StatusConflict, Code: "name_fixed", Field: "server_name", Message: fmt.Sprintf("There are accounts on %s already, so the server name cannot be changed.", old.name)}
	}
	// Not the request's context: the new core outlives it.
	c, err := a.newCore(audit.From(audit.As(context.WithoutCancel(ctx), ""), ""), name)
	if err != nil {
		return err
	}
	a.core.Store(c)
	old.close()
	a.log.Info("the server has another name now", "was", old.name, "is", name)
	return nil
}

// tlsChange is a checked choice of the wizard.
type tlsChange struct {
	changed     bool
	mode, email string
	cert, key   string // PEM
}

func (a *Appliance) prepareTLS(name string, c web.TLSChoice) (tlsChange, error) {
	bad := func(field, code, msg string) error {
		return &web.Error{Code: code, Field: field, Message: msg}
	}
	now := a.tlsState()
	if c.Mode == "" || c.Mode == now.Mode && c.Mode != "files" && c.Mode != "acme" {
		return tlsChange{}, nil
	}
	if now.Fixed {
		if c.Mode == now.Mode {
			return tlsChange{}, nil
		}
		return tlsChange{}, bad("tls.mode", "tls_fixed", "How TLS is done is set in the appliance's configuration (tls.mode) and cannot be chosen here.")
	}
	switch c.Mode {
	case "own-ca":
	case "files":
		if _, err := parsePair(c.Cert, c.Key); err != nil {
			return tlsChange{}, bad("tls.cert", "bad_certificate", "The certificate and the key do not work together: "+err.Error()+".")
		}
	case "acme":
		host := a.cfg.PublicHost()
		if host == "" {
			host = config.Host(name)
		}
		if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(host, ".") {
			return tlsChange{}, bad("tls.mode", "no_public_name", fmt.Sprintf("No public authority gives a certificate for %q. Use the appliance's own authority or your own files.", host))
		}
	default:
		return tlsChange{}, bad("tls.mode", "bad_mode", "Choose own-ca, files or acme.")
	}
	return tlsChange{true, c.Mode, c.Email, c.Cert, c.Key}, nil
}

// applyTLS makes the listeners use a choice that prepareTLS accepted.
func (a *Appliance) applyTLS(c tlsChange) error {
	if c.mode == "files" {
		if err := certs.Store(a.tlsDir(), []byte(c.cert), []byte(c.key)); err != nil {
			return err
		}
	}
	src, err := a.certSource(c.mode, c.email)
	if err != nil {
		return err
	}
	a.certs.Set(src)
	return nil
}
