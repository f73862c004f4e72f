package appliance

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	"holdfast/appliance/config"
	"holdfast/appliance/settings"
	"holdfast/homeserver"
	"holdfast/homeserver/calls"
	"holdfast/homeserver/notices"
	"holdfast/identity"
	"holdfast/sfu"
	"holdfast/store"
	"holdfast/web"
)

// core is what carries the server name: homeserver and identity. It is built
// anew when the wizard chooses another name, while there is no account.
type core struct {
	name       string
	identity   *identity.Service
	hs         *homeserver.Homeserver
	pages      http.Handler // identity
	homeserver http.Handler
	federation http.Handler // the federation listener's
	phones     http.Handler // the push server for phones
	end        []func()
}

func (c *core) close() {
	for i := len(c.end) - 1; i >= 0; i-- {
		c.end[i]()
	}
}

func (a *Appliance) newCore(ctx context.Context, name string) (c *core, err error) {
	made := &core{name: name} // what is returned may be nil
	defer func() {
		if err != nil {
			made.close()
		}
	}()
	c = made
	c.identity, err = identity.New(ctx, identity.Options{
		ServerName:   name,
		PublicURL:    a.publicURLFor(name),
		Origin:       a.origin,
		Organisation: a.organisation,
		DB:           a.db,
		Key:          a.master.Secret(),
		Audit:        a.audit,
		Log:          a.logs.component("identity"),
		Devices:      sinks{a, c},
		Profiles:     sinks{a, c},
		Phones:       phones{a, c},
		Text:         web.Text,
		Mail:         mailer{a},
		QR:           web.QRCode,
		Limits:       a.cfg.Limits.Enabled,
		DisplayName: func(ctx context.Context, userID string) (string, error) {
			name, _, err := c.hs.Userdata.MemberProfile(ctx, userID)
			return name, err
		},
		Rename: func(ctx context.Context, userID, displayName string) error {
			return c.hs.Userdata.SetProfile(ctx, userID, &displayName, nil)
		},
		Avatar: func(ctx context.Context, userID string) (string, error) {
			_, avatar, err := c.hs.Userdata.MemberProfile(ctx, userID)
			return avatar, err
		},
		SetProfile: func(ctx context.Context, userID string, name, avatar *string) error {
			return c.hs.Userdata.SetProfile(ctx, userID, name, avatar)
		},
		Upload: func(ctx context.Context, userID, mediaType string, content []byte) (string, error) {
			return c.hs.Files.Store(ctx, userID, mediaType, content)
		},
		RegistrationOpen: a.cfg.Registration.Open,
		Policy:           a.signInPolicy,
		Alarm:            a.alarm,
		Tell:             a.tell,
		Client:           named(a.cfg.Network.AllowPrivate),
		Deactivated: func(userID string) {
			if err := c.hs.LeaveAll(context.WithoutCancel(ctx), userID); err != nil {
				a.log.Error("a closed account could not leave all its rooms", "user", userID, "err", err)
			}
		},
		Locked: func(userID string, locked bool) {
			if err := c.hs.Locked(context.WithoutCancel(ctx), userID, locked); err != nil {
				a.log.Error("a locked account's proofs for calls could not be withdrawn", "user", userID, "err", err)
			}
		},
		GroupChanged: func(id string) { c.hs.GroupRooms.Changed(id) },
		Suspended:    func(userID string, suspended bool) { c.hs.Suspended(userID, suspended) },
		Reserved: func(localpart string) bool {
			return localpart == selfTestUser || localpart == notices.Localpart || c.hs.Appservice.Reserved(localpart, "")
		},
	})
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	c.end = append(c.end, c.identity.Close)
	c.pages = c.identity.Handler()
	roots, err := callRoots(a.cfg)
	if err != nil {
		return nil, err
	}
	c.hs, err = homeserver.New(ctx, homeserver.Options{
		ServerName:       name,
		PublicURL:        a.origin,
		DB:               a.db,
		Secrets:          a.secrets,
		Audit:            a.audit,
		Blobs:            a.blobs,
		Log:              a.logs.component("homeserver"),
		Tokens:           tokens{c.identity},
		Accounts:         accounts{c.identity},
		People:           people{c.identity},
		Standing:         accounts{c.identity}.Standing,
		Kept:             accounts{c.identity}.Kept,
		Site:             a.sharedURL,
		Mail:             mailer{a},
		Files:            a.files,
		Notices:          a.notices,
		Media:            a.media(),
		TURN:             a.turn,
		PolicyKey:        a.cfg.Rooms.PolicyServerKey,
		Logins:           a.logins,
		RegistrationOpen: a.cfg.Registration.Open,
		SharedSecret:     a.cfg.Registration.SharedSecret,
		RoomVersion:      a.cfg.Rooms.DefaultVersion,
		ForcesEncryption: a.forcesEncryption,
		Limits:           a.cfg.Limits.Enabled,
		Text:             web.Text,
		AppserviceDir:    a.cfg.Appservice.Dir,
		Client:           outbound(a.cfg.Network.AllowPrivate),
		Services:         services(),
		Named:            named(a.cfg.Network.AllowPrivate),
		CallServers:      a.cfg.CallServers(),
		CallRoots:        roots,
		PublicAddress:    elsewhere,
		PlainPush:        a.cfg.Network.AllowPrivate,
		Own:              a.leadsHere,
		Push:             a.pushSettings,
		WebPushKey:       func(ctx context.Context) ([]byte, error) { return a.webPushKey(ctx, c) },
		WebPushSubject:   func() string { return a.publicURLFor(name) },
		Version:          Version,
		OnDeviceDeleted:  c.identity.EndDeviceTx,
		Groups:           c.identity,
		// The wizard made it the server of one organisation, whose people look for
		// each other by name.
		FindEveryone: func() bool { return a.settings.Get(settings.Organisation) != "" },
	})
	if err != nil {
		return nil, fmt.Errorf("homeserver: %w", err)
	}
	c.end = append(c.end, c.hs.Close)
	c.identity.Start()
	c.homeserver, c.federation, c.phones = c.hs.Handler(), c.hs.Federation(), c.hs.Phones
	return c, nil
}

// media is the call relay as the homeserver sees it; a nil interface without one.
func (a *Appliance) media() calls.MediaTokens {
	if a.sfu == nil {
		return nil
	}
	return a.sfu
}

// turn gives credentials of the relay's TURN server; none without one.
func (a *Appliance) turn(userID string, r *http.Request) (c calls.Credentials, ok bool, err error) {
	if a.sfu == nil {
		return c, false, nil
	}
	got, err := a.sfu.TURN(userID, a.reach(r))
	if errors.Is(err, sfu.ErrNotRunning) {
		return c, false, nil
	}
	return calls.Credentials(got), err == nil, err
}

func (a *Appliance) publicURLFor(name string) string {
	if a.cfg.PublicURL != "" {
		return a.cfg.PublicURL
	}
	return "https://" + name
}

// organisation is what pages call the place: its name, else the server's.
func (a *Appliance) organisation() string {
	if o := a.settings.Get(settings.Organisation); o != "" {
		return o
	}
	return a.ServerName()
}

// sinks tell the homeserver about devices and accounts, and fix the server name
// with the first account. The homeserver is made after identity, hence the
// indirection; nothing is called before both are there.
type sinks struct {
	a *Appliance
	c *core
}

func (s sinks) UpsertDevice(tx *store.Tx, userID, deviceID, displayName string) error {
	return s.c.hs.UpsertDevice(tx, userID, deviceID, displayName)
}

func (s sinks) DeleteDevice(tx *store.Tx, userID, deviceID string) error {
	return s.c.hs.DeleteDevice(tx, userID, deviceID)
}

func (s sinks) SetDisplayName(tx *store.Tx, userID, displayName string) error {
	if _, err := s.a.settings.ClaimTx(tx, settings.ServerName, s.c.name); err != nil {
		return err
	}
	return s.c.hs.SetDisplayName(tx, userID, displayName)
}

// people are the accounts of people, without the self-test's.
func (a *Appliance) people(ctx context.Context) ([]identity.User, error) {
	list, err := a.core.Load().identity.Users(ctx)
	return slices.DeleteFunc(list, func(u identity.User) bool { return u.Localpart == selfTestUser }), err
}

// forcesEncryption reports whether the administrator wants rooms of a preset
// encrypted in any case.
func (a *Appliance) forcesEncryption(preset string) bool {
	switch a.cfg.Rooms.Encryption {
	case "all":
		return true
	case "private":
		return preset != "public_chat"
	}
	return false
}

// callRoots are the authorities that the servers of sfu.remote_servers are checked with.
func callRoots(cfg *config.Config) (*x509.CertPool, error) {
	if cfg.SFU.RemoteCA == "" {
		return nil, nil
	}
	b, err := os.ReadFile(cfg.SFU.RemoteCA)
	if err != nil {
		return nil, fmt.Errorf("%s: sfu.remote_ca: %w", cfg.Source("sfu.remote_ca"), err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: sfu.remote_ca: there is no certificate in PEM form in %s", cfg.Source("sfu.remote_ca"), cfg.SFU.RemoteCA)
	}
	return roots, nil
}
