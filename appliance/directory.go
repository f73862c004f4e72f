package appliance

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"holdfast/identity"
	"holdfast/identity/directory"
	"holdfast/identity/roster"
)

// directoryFlags are the options of holdfast directory.
type directoryFlags struct {
	c      roster.Config
	urls   listFlag
	logins listFlag
	ca     string
	every  string
	anyway bool
}

type listFlag struct{ list []string }

func (l *listFlag) String() string     { return strings.Join(l.list, " ") }
func (l *listFlag) Set(v string) error { l.list = append(l.list, v); return nil }

// directoryControl are the operations of the local socket about directories.
func (a *Appliance) directoryControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	dirs := func() *roster.Roster { return a.core.Load().identity.Directories() }
	find := func(ctx context.Context, id string) (roster.Directory, error) {
		all, err := dirs().List(ctx)
		for _, d := range all {
			if d.ID == id {
				return d, nil
			}
		}
		if err == nil {
			err = roster.ErrNoDirectory
		}
		return roster.Directory{}, err
	}
	handle("GET /v1/directories", func(r *http.Request) (any, error) { return dirs().List(r.Context()) })
	handle("PUT /v1/directories/{id}", func(r *http.Request) (any, error) {
		var in roster.Config
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		if err := dirs().Set(r.Context(), r.PathValue("id"), in); err != nil {
			return nil, err
		}
		a.log.Info("a directory was set from the command line", "directory", r.PathValue("id"))
		return find(r.Context(), r.PathValue("id"))
	})
	handle("DELETE /v1/directories/{id}", func(r *http.Request) (any, error) {
		err := dirs().Remove(r.Context(), r.PathValue("id"))
		if err == nil {
			a.log.Info("a directory was removed from the command line", "directory", r.PathValue("id"))
		}
		return struct{}{}, err
	})
	handle("POST /v1/directories/{id}/test", func(r *http.Request) (any, error) {
		return dirs().Test(r.Context(), r.PathValue("id"))
	})
	handle("POST /v1/directories/{id}/sync", func(r *http.Request) (any, error) {
		var in struct {
			Anyway bool `json:"anyway"`
		}
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		report, err := dirs().Sync(r.Context(), r.PathValue("id"), in.Anyway)
		if errors.Is(err, roster.ErrAlarm) {
			return report, nil // the report says it
		}
		return report, err
	})
	handle("POST /v1/directories/{id}/join", func(r *http.Request) (any, error) {
		var in struct {
			User string `json:"user"`
			Name string `json:"name"`
		}
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		err := dirs().Join(r.Context(), r.PathValue("id"), a.userID(in.User), in.Name)
		if err == nil {
			a.log.Info("an account was joined to a directory from the command line", "directory", r.PathValue("id"), "user", a.userID(in.User))
		}
		return struct{}{}, err
	})
}

// alarm tells the administrators by a notice, each in their own room.
func (a *Appliance) alarm(ctx context.Context, text string) {
	c := a.core.Load()
	if c == nil || c.hs == nil {
		return
	}
	users, err := a.people(ctx)
	if err != nil {
		a.log.Error("the administrators could not be told", "err", err)
		return
	}
	for _, u := range users {
		if !u.Admin || u.Err() != nil {
			continue
		}
		if err := a.notify(ctx, u, noticeRequest{Text: text}); err != nil {
			a.log.Error("an administrator could not be told", "user", u.UserID, "err", err)
		}
	}
}

// tell tells somebody a text by a notice.
func (a *Appliance) tell(ctx context.Context, u identity.User, text string) {
	c := a.core.Load()
	if c == nil || c.hs == nil {
		return
	}
	if err := a.notify(ctx, u, noticeRequest{Text: text}); err != nil {
		a.log.Error("a person could not be told", "user", u.UserID, "err", err)
	}
}

// directoryProblems says which directories do not answer, or lost too many people.
func (a *Appliance) directoryProblems(ctx context.Context) (out []string) {
	c := a.core.Load()
	if c == nil {
		return nil
	}
	all, err := c.identity.Directories().List(ctx)
	if err != nil {
		return nil // the database's problem is told already
	}
	for _, d := range all {
		switch {
		case d.Down != "":
			out = append(out, fmt.Sprintf("the directory %s does not answer: %s", d.ID, d.Down))
		case d.Report.Alarm:
			out = append(out, fmt.Sprintf("the directory %s lost %d people at once, so nothing was changed; if that is right: holdfast directory sync %s --anyway", d.ID, len(d.Report.Locked), d.ID))
		}
	}
	return out
}

func directoryFlagsOf(f *flag.FlagSet, c *cli) {
	d := &c.directory
	f.StringVar(&d.c.Kind, "kind", directory.LDAP, "ldap, or ad for Active Directory and Samba (`kind`)")
	f.Var(&d.urls, "url", "where it is: ldaps://dc1.example.org, or ldap://, which uses StartTLS; again for more servers (`address`)")
	f.StringVar(&d.c.BaseDN, "base-dn", "", "below which `dn` the people are, as dc=example,dc=org")
	f.StringVar(&d.c.BindDN, "bind-dn", "", "the `dn` that reads the directory; its password comes with --password-stdin")
	f.BoolVar(&c.passwordStdin, "password-stdin", false, "read the reader's password from standard input")
	f.StringVar(&d.ca, "ca", "", "a PEM `file` with the certificate authority of the directory, if it is one of your own")
	f.StringVar(&d.c.UserFilter, "user-filter", "", "who of them may sign in: an LDAP `filter`")
	f.Var(&d.logins, "login-attr", "an `attribute` that people may type as their name; again for more")
	f.StringVar(&d.c.IDAttr, "id-attr", "", "the `attribute` that stays when somebody is renamed")
	f.StringVar(&d.c.NameAttr, "name-attr", "", "the `attribute` that becomes the user name")
	f.StringVar(&d.c.FullAttr, "full-name-attr", "", "the `attribute` that becomes the displayed name")
	f.StringVar(&d.c.MailAttr, "mail-attr", "", "the `attribute` with the e-mail address")
	f.StringVar(&d.c.PictureAttr, "picture-attr", "", "the `attribute` with the picture: jpegPhoto, thumbnailPhoto or photo")
	f.StringVar(&d.c.GroupBaseDN, "group-base-dn", "", "below which `dn` the groups are, if not with the people")
	f.StringVar(&d.c.GroupFilter, "group-filter", "", "which groups count: an LDAP `filter`")
	f.StringVar(&d.c.GroupIDAttr, "group-id-attr", "", "the `attribute` that stays when a group is renamed")
	f.BoolVar(&d.c.NoGroups, "no-groups", false, "do not read groups")
	f.StringVar(&d.every, "every", "15m", "how often it is read: a `duration` such as 15m or 1h")
	f.BoolVar(&d.c.Everyone, "everyone", false, "make everybody's account at the next reading, not at their first sign-in")
	f.BoolVar(&d.c.Names, "names", false, "displayed names follow the directory, and are changed only there")
	f.BoolVar(&d.c.Pictures, "pictures", false, "pictures follow the directory, and are changed only there")
	f.BoolVar(&d.c.Mail, "mail", false, "e-mail addresses follow the directory, and are changed only there")
}

func runDirectorySet(ctx context.Context, c *cli, args []string) error {
	in := c.directory.c
	in.URLs, in.LoginAttrs = c.directory.urls.list, c.directory.logins.list
	if len(in.URLs) == 0 || in.BaseDN == "" {
		return &usageError{"a directory needs --url and --base-dn"}
	}
	every, err := time.ParseDuration(c.directory.every)
	if err != nil {
		return &usageError{"--every takes a duration such as 15m or 1h"}
	}
	in.Every = every
	if c.passwordStdin {
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 1<<16)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("the password cannot be read from standard input: %w", err)
		}
		if in.Password = strings.TrimRight(line, "\r\n"); in.Password == "" {
			return errors.New("no password came on standard input; its first line is the password")
		}
	}
	if c.directory.ca != "" {
		b, err := os.ReadFile(c.directory.ca)
		if err != nil {
			return fmt.Errorf("the certificate authority cannot be read: %w", err)
		}
		in.CA = string(b)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out roster.Directory
	if err := cl.call(ctx, "PUT", "/v1/directories/"+args[0], in, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "The directory %s is set. holdfast directory test %s shows who is read from it.\n", out.ID, out.ID)
	return nil
}

func runDirectoryList(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out []roster.Directory
	if err := cl.call(ctx, "GET", "/v1/directories", nil, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	if len(out) == 0 {
		fmt.Fprintln(c.out, "People come from no directory. holdfast directory set names one.")
	}
	for _, d := range out {
		fmt.Fprintf(c.out, "%s: %s, %s\n", d.ID, strings.Join(d.Config.URLs, " "), d.Config.BaseDN)
		switch {
		case d.Down != "":
			fmt.Fprintf(c.out, "  does not answer: %s\n", d.Down)
		case d.Synced.IsZero():
			fmt.Fprintln(c.out, "  was not read yet")
		}
		if !d.Synced.IsZero() {
			fmt.Fprintf(c.out, "  last read %s: %d people, %d with an account\n", d.Synced.Local().Format(time.DateTime), d.Report.People, d.Report.Accounts)
		}
		c.printReport(d.Report)
	}
	return nil
}

func (c *cli) printReport(r roster.Report) {
	if r.Alarm {
		fmt.Fprintf(c.out, "  ALARM: %d people with accounts are gone or disabled there. Nothing was changed; --anyway of holdfast directory sync does it.\n", len(r.Locked))
	}
	for _, x := range []struct {
		what  string
		names []string
	}{{"new accounts", r.Made}, {"renamed", r.Renamed}, {"other pictures", r.Pictured}, {"other e-mail addresses", r.Mailed}, {"locked", r.Locked}, {"unlocked", r.Unlocked}, {"names that are taken or not allowed", r.Taken}, {"renamed groups", r.GroupsRenamed},
		{"groups left out, as another group has their name", r.GroupsTaken}, {"e-mail addresses that another account has", r.MailTaken},
		{"pictures that are not taken", r.PicturesLeft}} {
		if len(x.names) > 0 {
			fmt.Fprintf(c.out, "  %s: %s\n", x.what, strings.Join(x.names, ", "))
		}
	}
	if r.Error != "" && !r.Alarm {
		fmt.Fprintf(c.out, "  the last reading failed: %s\n", r.Error)
	}
}

func runDirectoryTest(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out roster.Tested
	if err := cl.call(ctx, "POST", "/v1/directories/"+args[0]+"/test", struct{}{}, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "%d people in %d groups. The first:\n", out.People, out.Groups)
	for _, p := range out.First {
		groups := make([]string, len(p.Groups))
		for i, g := range p.Groups {
			groups[i] = g.Name
		}
		fmt.Fprintf(c.out, "  %s  %q  %s  groups: %s\n", p.Name, p.Full, p.Subject, strings.Join(groups, ", "))
		if p.Mail != "" || p.Picture != "" {
			fmt.Fprintf(c.out, "    e-mail: %s  picture: %s\n", cmp.Or(p.Mail, "none"), cmp.Or(p.Picture, "none"))
		}
	}
	return nil
}

func runDirectorySync(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out roster.Report
	if err := cl.call(ctx, "POST", "/v1/directories/"+args[0]+"/sync", map[string]bool{"anyway": c.directory.anyway}, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "%d people, %d with an account.\n", out.People, out.Accounts)
	c.printReport(out)
	return nil
}

func runDirectoryJoin(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.call(ctx, "POST", "/v1/directories/"+args[0]+"/join", map[string]string{"user": args[1], "name": args[2]}, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s signs in with the password of %s in the directory %s from now on.\n", args[1], args[2], args[0])
	return nil
}

func runDirectoryRemove(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.call(ctx, "DELETE", "/v1/directories/"+args[0], nil, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "The directory is forgotten, with its password. Its people keep their accounts and sessions; holdfast user password NAME gives one a password here.")
	return nil
}

// directoryMessage says what a failed command about directories means.
func directoryMessage(err error) string {
	switch {
	case errors.Is(err, roster.ErrNoDirectory):
		return "there is no such directory, or its settings cannot be read; holdfast directory list shows all"
	case errors.Is(err, identity.ErrElsewhere):
		return "a directory keeps this account's password; it is changed there"
	}
	return ""
}
