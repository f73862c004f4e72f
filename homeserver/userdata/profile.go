package userdata

import (
	"bytes"
	"context"
	"encoding/json"
	"regexp"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Limits of a profile. Spec: cs#put_matrixclientv3profileuseridkeyname
const (
	maxProfileBytes = 64<<10 - 1
	maxFieldName    = 255
	maxDisplayName  = 256
	maxAvatarURL    = 1000
)

const (
	codeProfileTooLarge mx.Code = "M_PROFILE_TOO_LARGE"
	codeKeyTooLarge     mx.Code = "M_KEY_TOO_LARGE"

	fieldName   = "displayname"
	fieldAvatar = "avatar_url"
	fieldZone   = "m.tz"
)

// fieldPattern is the Common Namespaced Identifier Grammar of free fields.
var fieldPattern = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`)

// Profile is what member events carry of a user.
type Profile struct {
	DisplayName string // "": none
	AvatarURL   string // "": none
}

// profile is all there is of a user.
type profile struct {
	userID string
	Profile
	fields map[string]mx.Raw
}

func (p profile) get(name string) (any, bool) {
	switch name {
	case fieldName:
		return p.DisplayName, p.DisplayName != ""
	case fieldAvatar:
		return p.AvatarURL, p.AvatarURL != ""
	}
	v, ok := p.fields[name]
	return v, ok
}

func (p profile) all() map[string]any {
	out := map[string]any{}
	for k, v := range p.fields {
		out[k] = v
	}
	for _, k := range []string{fieldName, fieldAvatar} {
		if v, ok := p.get(k); ok {
			out[k] = v
		}
	}
	return out
}

func (s *Service) profileRoutes() []route.Route {
	const v3, r0, unstable = "/_matrix/client/v3/profile/{userID}", "/_matrix/client/r0/profile/{userID}", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userID}"
	const field = "/{keyName}"
	return []route.Route{
		{Op: "getUserProfile", Pattern: "GET " + v3, Aliases: []string{r0, unstable}, Auth: route.Optional, Limit: route.Reads, Handle: route.Get(s.getProfile)},
		{Op: "getProfileField", Pattern: "GET " + v3 + field, Aliases: []string{r0 + field, unstable + field}, Auth: route.Optional, Limit: route.Reads, Handle: route.Get(s.getField)},
		{Op: "setProfileField", Pattern: "PUT " + v3 + field, Aliases: []string{r0 + field, unstable + field}, Auth: route.User, Limit: route.Membership, Handle: route.JSON(s.putField)},
		{Op: "deleteProfileField", Pattern: "DELETE " + v3 + field, Aliases: []string{r0 + field, unstable + field}, Auth: route.User, Limit: route.Membership, Handle: route.Get(s.deleteField)},
	}
}

// Create makes the profile of a new account. An existing one is left as it is.
func (s *Service) Create(tx *store.Tx, userID, displayName string) error {
	if len(displayName) > maxDisplayName {
		return mx.Errorf(mx.InvalidParam, "A display name has at most %d bytes.", maxDisplayName)
	}
	return insertProfile(tx, userID, displayName)
}

// LoadProfile gives a user's display name and avatar. Errors: store.ErrNotFound.
func LoadProfile(q store.Querier, userID string) (Profile, error) {
	p, err := loadProfile(q, userID)
	return p.Profile, err
}

// MemberProfile is LoadProfile for who has no transaction, in the form that
// package rooms asks for; a user without a profile has empty ones.
func (s *Service) MemberProfile(ctx context.Context, userID string) (displayName, avatarURL string, err error) {
	var p Profile
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		p, err = LoadProfile(q, userID)
		return err
	})
	if err == store.ErrNotFound {
		err = nil
	}
	return p.DisplayName, p.AvatarURL, err
}

// SetProfile changes a user's display name and avatar from within the server, in one
// member event of each room. nil: it stays; "": none.
func (s *Service) SetProfile(ctx context.Context, userID string, displayName, avatarURL *string) error {
	return s.change(ctx, userID, func(p *profile) error {
		for field, text := range map[string]*string{fieldName: displayName, fieldAvatar: avatarURL} {
			if text == nil {
				continue
			}
			v, err := json.Marshal(*text)
			if err != nil {
				return err
			}
			if err := p.set(field, v); err != nil {
				return err
			}
		}
		return nil
	})
}

// Profiles calls f with each profile of an open account.
func (s *Service) Profiles(q store.Querier, f func(userID string, p Profile)) error {
	return eachProfile(q, func(userID, name, avatar string) { f(userID, Profile{name, avatar}) })
}

var errNoProfile = mx.Errorf(mx.NotFound, "There is no profile of this user, or it has no such field.")

func (s *Service) read(ctx context.Context, userID string) (p profile, err error) {
	if !mx.ValidUserID(userID) {
		return p, mx.Errorf(mx.InvalidParam, "%.80q is not a user ID.", userID)
	}
	if s.o.Builtin != nil {
		if own, ok := s.o.Builtin(userID); ok {
			return profile{userID: userID, Profile: own}, nil
		}
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		p, err = loadProfile(q, userID)
		return err
	})
	if err == store.ErrNotFound {
		err = errNoProfile
	}
	return p, err
}

func (s *Service) getProfile(ctx context.Context, r *route.Request) (map[string]any, error) {
	p, err := s.read(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	return p.all(), nil
}

func (s *Service) getField(ctx context.Context, r *route.Request) (map[string]any, error) {
	name := r.Param("keyName")
	if err := checkFieldName(name); err != nil {
		return nil, err
	}
	p, err := s.read(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	v, ok := p.get(name)
	if !ok {
		return nil, errNoProfile
	}
	return map[string]any{name: v}, nil
}

func checkFieldName(name string) error {
	if len(name) > maxFieldName {
		return mx.Errorf(codeKeyTooLarge, "The name of a profile field has at most %d bytes.", maxFieldName)
	}
	if name != fieldName && name != fieldAvatar && !fieldPattern.MatchString(name) {
		return mx.Errorf(mx.InvalidParam, "A profile field is displayname, avatar_url, m.tz, or a name like com.example.field.")
	}
	return nil
}

func (s *Service) putField(ctx context.Context, r *route.Request, in map[string]mx.Raw) (out route.Empty, err error) {
	name := r.Param("keyName")
	if err := own(r); err != nil {
		return out, err
	}
	if err := r.NotSuspended(); err != nil {
		return out, err
	}
	if err := checkFieldName(name); err != nil {
		return out, err
	}
	if err := s.mayChange(ctx, r.UserID, name); err != nil {
		return out, err
	}
	v, ok := in[name]
	if !ok {
		return out, mx.Errorf(mx.MissingParam, "The body must have the field %q.", name)
	}
	return out, s.setField(ctx, r.UserID, name, v)
}

func (s *Service) deleteField(ctx context.Context, r *route.Request) (out route.Empty, err error) {
	if err := own(r); err != nil {
		return out, err
	}
	if err := r.NotSuspended(); err != nil {
		return out, err
	}
	if err := checkFieldName(r.Param("keyName")); err != nil {
		return out, err
	}
	if err := s.mayChange(ctx, r.UserID, r.Param("keyName")); err != nil {
		return out, err
	}
	return out, s.setField(ctx, r.UserID, r.Param("keyName"), nil)
}

// setField sets a field, or removes it with value nil.
func (s *Service) setField(ctx context.Context, userID, name string, value mx.Raw) error {
	return s.change(ctx, userID, func(p *profile) error { return p.set(name, value) })
}

// change changes a profile. What member events show is brought there before it returns.
func (s *Service) change(ctx context.Context, userID string, set func(*profile) error) error {
	ctx = context.WithoutCancel(ctx) // not only half of the rooms
	var before, now Profile
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		p, err := loadProfile(tx, userID)
		if err == store.ErrNotFound {
			p, err = profile{userID: userID, fields: map[string]mx.Raw{}}, nil
		}
		if err != nil {
			return err
		}
		before = p.Profile
		if err := set(&p); err != nil {
			return err
		}
		now = p.Profile
		return upsertProfile(tx, p)
	})
	if err != nil || now == before || s.o.ProfileChanged == nil {
		return err
	}
	return s.o.ProfileChanged(ctx, userID, now)
}

func (p *profile) set(name string, value mx.Raw) error {
	value = bytes.TrimSpace(value)
	null := len(value) == 0 || string(value) == "null"
	switch name {
	case fieldName, fieldAvatar:
		var text string
		if !null && json.Unmarshal(value, &text) != nil {
			return mx.Errorf(mx.BadJSON, "The field %q must be a string.", name)
		}
		to, most := &p.DisplayName, maxDisplayName
		if name == fieldAvatar {
			to, most = &p.AvatarURL, maxAvatarURL
		}
		if len(text) > most {
			return mx.Errorf(mx.InvalidParam, "The field %q has at most %d bytes.", name, most)
		}
		if strings.ContainsRune(text, 0) {
			return mx.Errorf(mx.InvalidParam, "The field %q must not contain NUL.", name)
		}
		if name == fieldAvatar && text != "" && !mx.ValidContentURI(text) {
			return mx.Errorf(mx.InvalidParam, "The field %q must be an mxc:// address, or empty.", name)
		}
		*to = text
	default:
		if len(value) == 0 {
			delete(p.fields, name)
			break
		}
		if name == fieldZone && value[0] != '"' {
			return mx.Errorf(mx.BadJSON, "The field %q must be a string.", name)
		}
		p.fields[name] = value
	}
	if b, err := json.Marshal(p.all()); err != nil || len(b) > maxProfileBytes {
		if err == nil {
			err = mx.Errorf(codeProfileTooLarge, "A profile stays under 64 KiB.")
		}
		return err
	}
	return nil
}
