package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast/appliance/settings"
	"holdfast/identity"
	"holdfast/store"
	"holdfast/web"
)

func parsePair(cert, key string) (tls.Certificate, error) {
	return tls.X509KeyPair([]byte(cert), []byte(key))
}

func (a *Appliance) openWeb() error {
	w, err := web.New(web.Options{
		Log:      a.logs.component("web"),
		Origin:   a.origin,
		Setup:    setup{a},
		Admins:   console{a},
		Invites:  console{a},
		Cards:    console{a},
		Lists:    console{a},
		People:   console{a},
		Bridges:  console{a},
		Status:   console{a},
		Previews: console{a},
		SelfTest: selfTest{a},
		Push:     console{a},
		Settings: console{a},
		CallDesk: console{a},
		Machine:  a.machine.parts(),
		Console:  console{a},

		Audit:       console{a},
		Apps:        console{a},
		Directories: console{a},
		Providers:   console{a},
	})
	a.web = w
	return err
}

// console is what web asks the appliance about people and its state. It goes to
// the core of the moment, which the wizard may have replaced.
type console struct{ *Appliance }

func (a console) id() *identity.Service { return a.core.Load().identity }

func (a console) Visitor(r *http.Request) (web.Visitor, error) {
	b, ok := a.id().BrowserSession(r)
	if !ok {
		return web.Visitor{}, nil
	}
	fresh, err := a.id().Fresh(r.Context(), b)
	if err != nil {
		return web.Visitor{}, err
	}
	enough, enrol, err := a.id().Enough(r.Context(), b)
	if err != nil {
		return web.Visitor{}, err
	}
	roles := b.User.Roles
	return web.Visitor{Weak: !enough, Enrol: enrol, UserID: b.User.UserID, Admin: b.User.Admin, Moderator: roles&identity.Moderator != 0, Auditor: roles&identity.Auditor != 0, Fresh: fresh}, nil
}

func (a console) CreateInvite(ctx context.Context, n web.NewInvite) (web.Invite, error) {
	roles, err := parseRoles(n.Roles)
	if err != nil {
		return web.Invite{}, groupError(err)
	}
	inv, err := a.id().CreateInvite(identity.WithActor(ctx, n.By), identity.NewInvite{Uses: n.Uses, ExpiresIn: n.ExpiresIn, Localpart: n.Localpart, Roles: roles, Groups: n.Groups})
	switch {
	case errors.Is(err, identity.ErrBadName):
		return web.Invite{}, &web.Error{Code: "bad_name", Field: "localpart", Message: "A user name has small letters, digits and . _ = - / + only, such as anna.meyer."}
	case errors.Is(err, identity.ErrUserExists):
		return web.Invite{}, &web.Error{Code: "taken", Field: "localpart", Message: "This user name is taken. Choose another."}
	case err != nil:
		return web.Invite{}, groupError(err)
	}
	out := toInvite(inv)
	out.Uses, out.URL = n.Uses, a.inviteURL(inv.Token, n.Origin)
	return out, nil
}

// inviteURL is the link of an invite. It is handed to other people, so it is not
// on localhost if there is an address that others reach.
func (a *Appliance) inviteURL(token, origin string) string {
	if origin == "" || strings.HasPrefix(origin, "http://localhost") || strings.HasPrefix(origin, "https://localhost") {
		origin = a.sharedURL()
	}
	return origin + "/e/" + token
}

func toInvite(i identity.Invite) web.Invite {
	return web.Invite{ID: i.ID, Localpart: i.Localpart, Roles: i.Roles.Names(), Groups: i.Groups, Uses: i.UsesLeft, By: i.CreatedBy, Created: i.Created, Expires: i.Expires, Revoked: i.Revoked}
}

func (a console) Invites(ctx context.Context) ([]web.Invite, error) {
	list, err := a.id().Invites(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]web.Invite, 0, len(list))
	for _, i := range list {
		out = append(out, toInvite(i))
	}
	return out, nil
}

func (a console) RevokeInvite(ctx context.Context, id string) error {
	err := a.id().RevokeInvite(ctx, id)
	if errors.Is(err, identity.ErrInvite) {
		return &web.Error{Status: http.StatusNotFound, Code: "not_found", Message: "There is no such invite any more."}
	}
	return err
}

func (a console) Users(ctx context.Context) ([]web.User, error) {
	list, err := a.people(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]web.User, 0, len(list))
	devices := a.core.Load().hs.Devices
	err = a.db.Read(ctx, func(q store.Querier) error {
		for _, u := range list {
			ids, err := devices.IDs(q, u.UserID)
			if err != nil {
				return err
			}
			out = append(out, web.User{UserID: u.UserID, DisplayName: u.DisplayName, Admin: u.Admin, Roles: u.Roles.Names(), Disabled: u.State != "active", HasPassword: u.HasPassword,
				Devices: len(ids), Created: u.Created, LastSeen: u.LastSeen})
		}
		return nil
	})
	return out, err
}

func (a console) SetDisabled(ctx context.Context, userID string, disabled bool) error {
	return groupError(a.id().SetDisabled(asCaller(ctx), userID, disabled))
}

func (a console) Status(ctx context.Context) (web.Report, error) {
	users, err := a.people(ctx)
	if err != nil {
		return web.Report{}, err
	}
	r := web.Report{
		Version: Version, ServerName: a.ServerName(), PublicURL: a.sharedURL(), TLS: a.tlsState(),
		Started: a.started, Now: time.Now(), Users: len(users),
		DatabaseBytes: fileSize(a.db.Path()) + fileSize(a.db.Path()+"-wal"),
		MediaBytes:    treeSize(filepath.Join(a.cfg.Data, "media")),
		DiskFreeBytes: diskFree(a.cfg.Data),
		MemoryBytes:   residentBytes(),
	}
	err = a.db.Read(ctx, func(q store.Querier) (err error) {
		var rooms int64
		rooms, r.Events, err = a.core.Load().hs.Rooms.Totals(q)
		r.Rooms = int(rooms)
		if a.settings.Get(settings.SelfTestRoom) != "" {
			r.Rooms-- // nobody's chat
		}
		return err
	})
	if err != nil {
		return web.Report{}, err
	}
	if a.sfu != nil {
		s := a.sfu.Stats()
		st := a.sfu.Status()
		r.Calls = web.Calls{Rooms: s.Calls, Participants: s.Participants, Draining: st.Draining}
		r.MemoryBytes += st.MemoryBytes
	}
	return r, nil
}

func fileSize(path string) int64 {
	if fi, err := os.Stat(path); err == nil {
		return fi.Size()
	}
	return 0
}

func treeSize(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				n += fi.Size()
			}
		}
		return nil
	})
	return n
}

func diskFree(dir string) int64 {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return 0
	}
	return int64(s.Bavail) * s.Bsize
}

// residentBytes is the process's memory as the kernel counts it; 0 if unknown.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
