package userdata

import (
	"context"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
)

// Kept says what of a person is kept by a directory and follows it. Such a thing is
// changed there, and by nobody here.
type Kept struct {
	Directory            string // its short name
	Name, Avatar, Emails bool
}

// Refuse says that something of the person is changed elsewhere: what is "The display
// name of this account", say. Errors: Forbidden.
func (k Kept) Refuse(what string) error {
	return mx.Errorf(mx.Forbidden, "%s comes from your organisation's directory (%s) and follows it. Change it there.", what, k.Directory)
}

// Kept is what of a user a directory keeps.
func (s *Service) Kept(ctx context.Context, userID string) (Kept, error) {
	if s.o.Kept == nil {
		return Kept{}, nil
	}
	return s.o.Kept(ctx, userID)
}

const (
	whatName   = "The display name of this account"
	whatAvatar = "The picture of this account"
)

// mayChange refuses that a person changes a field that follows a directory.
func (s *Service) mayChange(ctx context.Context, userID, field string) error {
	if field != fieldName && field != fieldAvatar {
		return nil
	}
	k, err := s.Kept(ctx, userID)
	switch {
	case err != nil:
		return err
	case field == fieldName && k.Name:
		return k.Refuse(whatName)
	case field == fieldAvatar && k.Avatar:
		return k.Refuse(whatAvatar)
	}
	return nil
}

// MayShow refuses that a person goes by another name or picture in one room, where these
// follow a directory. content is of a member event by which they are joined.
func (s *Service) MayShow(ctx context.Context, userID string, content mx.Raw) error {
	k, err := s.Kept(ctx, userID)
	if err != nil || !k.Name && !k.Avatar {
		return err
	}
	name, avatar, err := s.MemberProfile(ctx, userID)
	switch {
	case err != nil:
		return err
	case k.Name && pdu.FieldString(content, fieldName) != name:
		return k.Refuse(whatName)
	case k.Avatar && pdu.FieldString(content, fieldAvatar) != avatar:
		return k.Refuse(whatAvatar)
	}
	return nil
}

// MaySet refuses that an administrator gives somebody another name or picture than they
// have, where these follow a directory: it would be undone at the next reading. nil: it
// is not to be changed.
func (s *Service) MaySet(ctx context.Context, userID string, displayName, avatarURL *string) error {
	k, err := s.Kept(ctx, userID)
	if err != nil || !k.Name && !k.Avatar {
		return err
	}
	name, avatar, err := s.MemberProfile(ctx, userID)
	refuse := func(field, what string) error {
		return mx.Errorf(mx.Forbidden, "%s comes from the directory %s, which would set it back. Change it there, or leave %s out.", what, k.Directory, field)
	}
	switch {
	case err != nil:
		return err
	case k.Name && displayName != nil && *displayName != name:
		return refuse(fieldName, whatName)
	case k.Avatar && avatarURL != nil && *avatarURL != avatar:
		return refuse(fieldAvatar, whatAvatar)
	}
	return nil
}
