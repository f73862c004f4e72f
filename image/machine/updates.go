package machine

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"

	"holdfast/image/update"
	"holdfast/store/schema"
	"holdfast/web"
)

// Updates are the versions on the system partition, for the console and for the
// machine's screen.
type Updates struct {
	Slots *update.Slots
	Keys  []ed25519.PublicKey
	// Disk is the disk that the appliance is on ("sda"), which is no stick.
	Disk string

	mu sync.Mutex // one update at a time
}

// Versions implements web.Updates.
func (u *Updates) Versions(context.Context) (web.Versions, error) {
	v := web.Versions{Running: u.Slots.Running, Arch: runtime.GOARCH}
	var prints []string
	for _, k := range u.Keys {
		sum := sha256.Sum256(k)
		prints = append(prints, hex.EncodeToString(sum[:8]))
	}
	v.Signed = strings.Join(prints, " ")
	list, err := u.Slots.List()
	if err != nil {
		return v, err
	}
	for _, s := range list {
		if s.Booted {
			continue
		}
		o := web.Update{Version: s.Version, State: "kept", Bytes: s.Size}
		switch {
		case s.Failed():
			o.State = "failed"
		case update.Compare(s.Version, u.Slots.Running) > 0, s.Counted && s.Done == 0:
			o.State = "waiting"
		}
		if m, err := u.Slots.Manifest(s.Version, u.Keys); err == nil {
			o.Created, o.Notes = m.Created, m.Notes
		}
		v.Others = append(v.Others, o)
	}
	return v, nil
}

// StageUpdate implements web.Updates.
func (u *Updates) StageUpdate(ctx context.Context, bundle io.Reader, downgrade bool) (web.Update, error) {
	b, err := update.Open(bundle, u.Keys)
	if err != nil {
		return web.Update{}, refused(err)
	}
	return u.stage(ctx, b, downgrade)
}

func (u *Updates) stage(ctx context.Context, b *update.Bundle, downgrade bool) (web.Update, error) {
	if !u.mu.TryLock() {
		return web.Update{}, &web.Error{Status: http.StatusConflict, Code: "busy", Message: "Another update is being copied. Wait until it is done."}
	}
	defer u.mu.Unlock()
	if err := u.fits(b.Manifest, downgrade); err != nil {
		return web.Update{}, err
	}
	if err := u.Slots.Stage(ctx, b); err != nil {
		return web.Update{}, refused(err)
	}
	if update.Compare(b.Version, u.Slots.Running) < 0 {
		// The boot loader would choose the newer one.
		if err := u.Slots.Start(b.Version); err != nil {
			return web.Update{}, &web.Error{Status: http.StatusConflict, Code: "no_variables", Message: "This machine's firmware keeps no variables, so it always starts the newest version: " + err.Error() + "."}
		}
	}
	return web.Update{Version: b.Version, Created: b.Created, Notes: b.Notes, State: "waiting", Bytes: b.Size}, nil
}

// fits refuses what cannot run here, and asks before a step back.
func (u *Updates) fits(m update.Manifest, downgrade bool) error {
	conflict := func(code, format string, args ...any) error {
		return &web.Error{Status: http.StatusConflict, Code: code, Message: fmt.Sprintf(format, args...)}
	}
	if m.Arch != runtime.GOARCH {
		return conflict("wrong_arch", "This update is for %s machines, and this one is %s. Get the file for %s.", m.Arch, runtime.GOARCH, runtime.GOARCH)
	}
	switch c := update.Compare(m.Version, u.Slots.Running); {
	case m.Version == u.Slots.Running:
		return conflict("same_version", "Version %s runs already.", m.Version)
	case c < 0:
		now, err := schema.Migrations()
		if err != nil {
			return err
		}
		if m.Schema < len(now) {
			return conflict("too_old", "Version %s cannot read the database any more: %s has brought it to a newer form. To go back, install %s anew and restore a backup from before the update.", m.Version, u.Slots.Running, m.Version)
		}
		if !downgrade {
			return conflict("downgrade", "Version %s is older than %s, which runs now. It reads the same data, but lacks what was mended since, holes in its security among it. Go back only if the newer version gives you trouble.", m.Version, u.Slots.Running)
		}
	}
	return nil
}

// refused words an error for an administrator.
func refused(err error) error {
	e := &web.Error{Message: sentence(err)}
	switch {
	case errors.Is(err, update.ErrNotBundle):
		e.Code = "not_bundle"
	case errors.Is(err, update.ErrDamaged):
		e.Code = "damaged"
	case errors.Is(err, update.ErrSignature):
		e.Code, e.Status = "bad_signature", http.StatusForbidden
	case errors.Is(err, update.ErrNoSpace):
		e.Code, e.Status = "no_space", http.StatusInsufficientStorage
	case errors.Is(err, update.ErrNoStick):
		e.Code, e.Status = "no_stick", http.StatusNotFound
	default:
		return err
	}
	return e
}

// sentence writes an error as one: "It is full."
func sentence(err error) string {
	s := err.Error()
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// OpenBundle implements web.Updates.
func (u *Updates) OpenBundle(context.Context) (io.ReadCloser, int64, string, error) {
	r, size, err := u.Slots.Bundle(u.Slots.Running)
	if err != nil {
		return nil, 0, "", &web.Error{Status: http.StatusConflict, Code: "no_bundle", Message: sentence(err)}
	}
	return r, size, u.Slots.Running, nil
}

// StickUpdates implements web.Sticks.
func (u *Updates) StickUpdates(ctx context.Context) ([]web.StickUpdate, error) {
	found, err := update.OnSticks(ctx, u.Disk, u.Keys)
	if err != nil {
		return nil, refused(err)
	}
	var list []web.StickUpdate
	for _, f := range found {
		list = append(list, web.StickUpdate{Device: f.Device, File: f.File, Version: f.Version, Created: f.Created, Notes: f.Notes})
	}
	return list, nil
}

// StageStick implements web.Sticks.
func (u *Updates) StageStick(ctx context.Context, device, file string, downgrade bool) (out web.Update, err error) {
	var staged error
	err = update.FromStick(ctx, u.Disk, update.Found{Device: device, File: file}, u.Keys, func(b *update.Bundle) error {
		out, staged = u.stage(ctx, b, downgrade)
		return nil
	})
	if err != nil {
		return out, refused(err)
	}
	return out, staged
}
