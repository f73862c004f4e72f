package roster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"holdfast/identity/account"
	"holdfast/identity/directory"
	"holdfast/store"
)

// This file has people's names, pictures and e-mail addresses follow their directory,
// where its policy says so. What follows is compared with what there is here, so that
// only what differs is changed: a change of a name or picture is an event in each room.

// Kept is what of an account its directory keeps: it follows, and nobody changes it here.
type Kept struct {
	Directory            string // short name; "": a local account
	Name, Picture, Email bool
}

// Kept finds what of an account, by its ULID, a directory keeps.
func (r *Roster) Kept(q store.Querier, id string) (k Kept, err error) {
	l, err := loadLink(q, id)
	if err != nil || l.directory == "" {
		return k, err
	}
	k.Directory = l.directory
	if d, err := r.get(l.directory); err == nil {
		k.Name, k.Picture, k.Email = d.c.Names, d.c.Pictures, d.c.Mail
	}
	return k, nil
}

// KeepsEmails implements account.Elsewhere.
func (r *Roster) KeepsEmails(q store.Querier, id string) (bool, error) {
	k, err := r.Kept(q, id)
	return k.Email, err
}

// followed is what of a person was changed.
type followed struct {
	renamed, pictured, mailed bool
	mailTaken                 bool   // their address is another account's
	trouble                   string // why their picture is not taken
}

// add has a report say it.
func (f followed) add(to *Report, name string) {
	for _, x := range []struct {
		on   bool
		list *[]string
	}{{f.renamed, &to.Renamed}, {f.pictured, &to.Pictured}, {f.mailed, &to.Mailed}, {f.mailTaken, &to.MailTaken}} {
		if x.on {
			*x.list = append(*x.list, name)
		}
	}
	if f.trouble != "" {
		to.PicturesLeft = append(to.PicturesLeft, name+": "+f.trouble)
	}
}

// profile takes over what of a person follows the directory. pictures are this
// directory's. Errors: directory.ErrUnavailable, directory.ErrRefused.
func (r *Roster) profile(ctx context.Context, id string, c Config, pictures *directory.Pictures, p directory.Person, u account.User) (done followed, err error) {
	var l link
	differs := false
	err = r.o.DB.Read(ctx, func(q store.Querier) error {
		if l, err = loadLink(q, u.ID); err != nil || !c.Mail {
			return err
		}
		differs, done.mailTaken, err = r.o.Accounts.EmailDiffers(q, u, p.Mail)
		return err
	})
	if err != nil || l.directory != id {
		return done, err
	}
	now := l
	now.name, now.full = p.Name, p.Full
	if c.Pictures && r.o.Upload != nil {
		if err := r.picture(ctx, pictures, p, u, &now); err != nil {
			return done, err
		}
		done.trouble = now.trouble
	}
	var name, avatar *string
	if c.Names && r.o.DisplayName != nil && p.Full != "" {
		has, err := r.o.DisplayName(ctx, u.UserID)
		if err != nil {
			return done, err
		}
		if done.renamed = has != p.Full; done.renamed {
			name = &p.Full
		}
	}
	if c.Pictures && r.o.Avatar != nil && now.trouble == "" {
		has, err := r.o.Avatar(ctx, u.UserID)
		if err != nil {
			return done, err
		}
		if done.pictured = has != now.avatar; done.pictured {
			avatar = &now.avatar
		}
	}
	if (name != nil || avatar != nil) && r.o.SetProfile != nil {
		if err := r.o.SetProfile(ctx, u.UserID, name, avatar); err != nil {
			return done, err
		}
	}
	if !differs && now == l {
		return done, nil
	}
	return done, r.o.DB.Write(ctx, func(tx *store.Tx) error {
		if differs {
			if done.mailed, done.mailTaken, err = r.o.Accounts.FollowEmailTx(tx, u, p.Mail, id); err != nil {
				return err
			}
		}
		return updateLink(tx, now)
	})
}

// picture reads somebody's picture, if their entry changed since it was last read, and
// stores it, if it is another one.
func (r *Roster) picture(ctx context.Context, pictures *directory.Pictures, p directory.Person, u account.User, l *link) error {
	if p.Stamp != "" && p.Stamp == l.stamp {
		return nil
	}
	pic, err := pictures.Of(ctx, p)
	if errors.Is(err, directory.ErrPicture) {
		l.stamp, l.trouble = p.Stamp, strings.TrimPrefix(err.Error(), directory.ErrPicture.Error()+": ")
		return nil // that which they have stays
	}
	if err != nil {
		return err
	}
	hash := ""
	if len(pic.Content) > 0 {
		sum := sha256.Sum256(pic.Content)
		hash = hex.EncodeToString(sum[:])
	}
	if hash != l.picture {
		l.picture, l.avatar = hash, ""
		if hash != "" {
			if l.avatar, err = r.o.Upload(ctx, u.UserID, pic.Type, pic.Content); err != nil {
				return err
			}
		}
	}
	l.stamp, l.trouble = p.Stamp, ""
	return nil
}

// shownFirst is how many people a test reading shows.
const shownFirst = 5

// Tested is what a test reading found.
type Tested struct {
	People int    `json:"people"`
	Groups int    `json:"groups"`
	First  []Seen `json:"first"` // a few, to look at
}

// Seen is somebody as a test reading shows them.
type Seen struct {
	directory.Person
	Picture string `json:"picture,omitempty"` // what it is, or why it is not taken
}

// Test reads a directory without changing anything here. Errors: ErrNoDirectory, those
// of directory.
func (r *Roster) Test(ctx context.Context, id string) (t Tested, err error) {
	d, err := r.get(id)
	if err != nil {
		return t, err
	}
	all, err := d.dir.Read(ctx)
	r.answered(id, err)
	if err != nil {
		return t, err
	}
	pictures := d.dir.Pictures()
	defer pictures.Close()
	t.People, t.Groups, t.First = len(all.People), len(all.Groups), []Seen{}
	for _, p := range all.People[:min(len(all.People), shownFirst)] {
		seen := Seen{Person: p}
		pic, err := pictures.Of(ctx, p)
		switch {
		case errors.Is(err, directory.ErrPicture):
			seen.Picture = err.Error()
		case err != nil:
			return t, err
		case len(pic.Content) > 0:
			seen.Picture = fmt.Sprintf("%s, %d KB", pic.Type, (len(pic.Content)+1023)/1024)
		}
		t.First = append(t.First, seen)
	}
	return t, nil
}
