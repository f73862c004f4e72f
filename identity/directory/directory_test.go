package directory_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"holdfast/identity/directory"
	"holdfast/identity/directory/directorytest"
)

var ctx = context.Background()

func config(s *directorytest.Server) directory.Config {
	return directory.Config{URLs: []string{s.TLSURL}, CA: s.CA, BindDN: directorytest.AdminDN, Password: directorytest.Password, BaseDN: directorytest.Base}
}

func open(t *testing.T, c directory.Config) *directory.Directory {
	t.Helper()
	d, err := directory.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// names are those of groups; the directory must tell what stays of each, too.
func names(t *testing.T, groups []directory.Group) (out []string) {
	t.Helper()
	for _, g := range groups {
		if out = append(out, g.Name); len(g.ID) != 36 && len(g.ID) != 32 {
			t.Errorf("the group %s has the identifier %q", g.Name, g.ID)
		}
	}
	return out
}

func TestSignIn(t *testing.T) {
	s := directorytest.Start(t)
	s.AddPerson("anna", "Anna Ärztin", "right (1)*")
	s.AddPerson("bert", "Bert", "right")
	ward := s.AddGroup("ward 3", directorytest.Person("anna"))
	s.AddGroup("hospital", ward)
	s.AddGroup("others", directorytest.Person("bert"))
	s.Add("cn=posix,ou=groups,"+directorytest.Base, "objectClass: posixGroup", "gidNumber: 7", "memberUid: anna")

	for name, c := range map[string]directory.Config{
		"ldaps":    config(s),
		"StartTLS": func() directory.Config { c := config(s); c.URLs = []string{s.URL}; return c }(),
		"the second server, as the first is gone": func() directory.Config {
			c := config(s)
			c.URLs = []string{"ldaps://127.0.0.1:1", s.TLSURL}
			return c
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			p, err := open(t, c).SignIn(ctx, "Anna", "right (1)*")
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Subject) != 36 || p.DN != directorytest.Person("anna") || p.Name != "anna" || p.Full != "Anna Ärztin" || p.Mail != "anna@example.org" || p.Disabled {
				t.Errorf("%+v", p)
			}
			if want := []string{"hospital", "posix", "ward 3"}; !slices.Equal(names(t, p.Groups), want) {
				t.Errorf("groups %v, want %q", p.Groups, want)
			}
		})
	}

	// Attack 37 and its kin: what people type is neither a filter nor a way to bind
	// without a password.
	d := open(t, config(s))
	for name, password := range map[string]string{
		"anna": "wrong", "bert": "", "": "right", "nobody": "right", "*": "right", "ber*": "right", "*)(uid=*": "right", "bert)(|(uid=*": "right",
		"anna)(userPassword=*": "x", "bert\x00": "right", strings.Repeat("b", 5000): "right", `\62ert`: "right", "uid=bert": "right",
	} {
		if p, err := d.SignIn(ctx, name, password); !errors.Is(err, directory.ErrWrongPassword) {
			t.Errorf("%q with %q: %v %v", name, password, p, err)
		}
	}

	// A name that is two people's.
	s.Set(directorytest.Person("bert"), "uid", "bert", "anna")
	if _, err := d.SignIn(ctx, "anna", "right"); !errors.Is(err, directory.ErrWrongPassword) {
		t.Error(err)
	}
	s.Set(directorytest.Person("bert"), "uid", "bert")

	// Who is disabled.
	s.Set(directorytest.Person("bert"), "objectClass", "inetOrgPerson", "shadowAccount")
	s.Set(directorytest.Person("bert"), "shadowExpire", "1")
	if _, err := d.SignIn(ctx, "bert", "right"); !errors.Is(err, directory.ErrDisabled) {
		t.Error(err)
	}
	if _, err := d.SignIn(ctx, "bert", "wrong"); !errors.Is(err, directory.ErrWrongPassword) {
		t.Errorf("a wrong password tells whether the account is disabled: %v", err)
	}

	// The reader's password is wrong: that is no matter of the person.
	c := config(s)
	c.Password = "wrong"
	if _, err := open(t, c).SignIn(ctx, "anna", "right (1)*"); !errors.Is(err, directory.ErrRefused) {
		t.Error(err)
	}
	// A certificate that nobody trusts.
	c = config(s)
	c.CA = ""
	for _, url := range []string{s.TLSURL, s.URL} {
		c.URLs = []string{url}
		if _, err := open(t, c).SignIn(ctx, "anna", "right (1)*"); !errors.Is(err, directory.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", url, err)
		}
	}
	s.Stop()
	if _, err := d.SignIn(ctx, "anna", "right (1)*"); !errors.Is(err, directory.ErrUnavailable) {
		t.Error(err)
	}
	s.Run()
	if _, err := d.SignIn(ctx, "anna", "right (1)*"); err != nil {
		t.Error(err)
	}
	// On this machine a directory may do without TLS.
	s.WithoutTLS()
	c = config(s)
	c.URLs = []string{s.URL}
	for _, password := range []string{"right (1)*", "wrong"} {
		if _, err := open(t, c).SignIn(ctx, "anna", password); (err == nil) != (password != "wrong") || err != nil && !errors.Is(err, directory.ErrWrongPassword) {
			t.Errorf("without TLS, %q: %v", password, err)
		}
	}
}

func TestPeople(t *testing.T) {
	s := directorytest.Start(t)
	s.AddPerson("anna", "Anna", "right")
	s.AddPeople("many", 1200) // more than the server gives at once
	inner := s.AddGroup("inner", directorytest.Person("anna"), directorytest.Person("many7"))
	outer := s.AddGroup("outer", inner)
	s.Set(inner, "member", directorytest.Person("anna"), directorytest.Person("many7"), outer) // a circle
	all, err := open(t, config(s)).Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	people := all.People
	if got := strings.Join(names(t, all.Groups), " "); got != "inner outer" {
		t.Errorf("groups %q", got)
	}
	if len(people) != 1201 {
		t.Fatalf("%d people", len(people))
	}
	subjects := map[string]bool{}
	for _, p := range people {
		subjects[p.Subject] = true
		in := p.Name == "anna" || p.Name == "many7"
		if got := strings.Join(names(t, p.Groups), " "); in && got != "inner outer" || !in && got != "" {
			t.Errorf("%s is in %q", p.Name, got)
		}
	}
	if len(subjects) != 1201 {
		t.Errorf("%d subjects", len(subjects))
	}
	// A renamed person is the same one.
	before := people[slices.IndexFunc(people, func(p directory.Person) bool { return p.Name == "anna" })]
	s.Rename(before.DN, "uid=berta")
	after, err := open(t, config(s)).SignIn(ctx, "berta", "right")
	if err != nil || after.Subject != before.Subject || after.Name != "berta" {
		t.Errorf("%+v %v", after, err)
	}
	// And so is a renamed group, for who signs in and for who is read.
	s.Set(inner, "member", after.DN, outer)
	s.Rename(inner, "cn=renamed")
	if after, err = open(t, config(s)).SignIn(ctx, "berta", "right"); err != nil || len(after.Groups) != 1 || after.Groups[0] != (directory.Group{ID: all.Groups[0].ID, Name: "renamed"}) {
		t.Errorf("%+v %v, before %+v", after.Groups, err, all.Groups)
	}
	c := config(s)
	c.BaseDN = "ou=nowhere," + directorytest.Base
	if _, err := open(t, c).Read(ctx); !errors.Is(err, directory.ErrRefused) || !strings.Contains(err.Error(), "ou=nowhere") {
		t.Error(err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := open(t, config(s)).Read(canceled); err == nil {
		t.Error("a canceled read gave an answer")
	}
}

// What is said to who types a password that the directory does not take. Only where it was
// the right one more is said than that it was wrong.
func TestRefusals(t *testing.T) {
	ad := func(code string) error {
		return ldap.NewError(ldap.LDAPResultInvalidCredentials, errors.New("80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data "+code+", v2580"))
	}
	for _, c := range []struct{ have, want error }{
		{ldap.NewError(ldap.LDAPResultInvalidCredentials, errors.New("Invalid Credentials")), directory.ErrWrongPassword},
		{ad("52e"), directory.ErrWrongPassword}, {ad("525"), directory.ErrWrongPassword},
		{ad("533"), directory.ErrDisabled}, {ad("530"), directory.ErrDisabled}, {ad("701"), directory.ErrDisabled},
		{ad("532"), directory.ErrChangePassword}, {ad("773"), directory.ErrChangePassword},
		{ad("775"), directory.ErrWrongPassword}, // locked, whatever was typed
		{ldap.NewError(ldap.LDAPResultUnwillingToPerform, errors.New("Account inactivated. Contact system administrator.")), directory.ErrWrongPassword},
		{ldap.NewError(ldap.LDAPResultInappropriateAuthentication, errors.New("no password")), directory.ErrWrongPassword},
		{ldap.NewError(ldap.LDAPResultBusy, errors.New("later")), directory.ErrUnavailable},
		{ldap.NewError(ldap.ErrorNetwork, errors.New("gone")), directory.ErrUnavailable},
	} {
		if got := directory.Refusal(c.have); !errors.Is(got, c.want) {
			t.Errorf("%v: %v, want %v", c.have, got, c.want)
		}
	}
}

// Active Directory's attributes, in slapd with Debian's schema of them.
func TestActiveDirectory(t *testing.T) {
	s := directorytest.Start(t)
	guid := "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\xff"
	dn := "cn=Carl C.,ou=people," + directorytest.Base
	s.Add(dn, "objectClass: inetOrgPerson", "objectClass: extensibleObject", "sn: C.", "uid: carlc", "uid: carl@corp.example.org", "sAMAccountName: CarlC", "userPrincipalName: carl@corp.example.org", "objectGUID: "+guid, "userAccountControl: 512", "displayName: Carl C.", "userPassword: right")
	c := config(s)
	// slapd has no way to compare the two names, as their schema says none.
	c.LoginAttrs = []string{"uid"}
	c.Kind, c.UserFilter, c.GroupFilter = directory.ActiveDirectory, "(objectClass=inetOrgPerson)", "(objectClass=groupOfNames)"
	s.Add("cn=staff,ou=groups,"+directorytest.Base, "objectClass: groupOfNames", "objectClass: extensibleObject", "member: "+dn, "objectGUID: \x0f\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x00")
	d := open(t, c)
	for _, name := range []string{"carlc", "CARL@corp.example.org"} {
		p, err := d.SignIn(ctx, name, "right")
		if err != nil || p.Name != "carlc" || p.Subject != "0102030405060708090a0b0c0d0e0fff" || len(p.Groups) != 1 || p.Groups[0] != (directory.Group{ID: "0f02030405060708090a0b0c0d0e0f00", Name: "staff"}) {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
	s.Set(dn, "userAccountControl", "514")
	if _, err := d.SignIn(ctx, "carlc", "right"); !errors.Is(err, directory.ErrDisabled) {
		t.Error(err)
	}
	if all, err := d.Read(ctx); err != nil || len(all.People) != 1 || !all.People[0].Disabled {
		t.Errorf("%+v %v", all, err)
	}
}

func TestPictures(t *testing.T) {
	s := directorytest.Start(t)
	s.AddPerson("anna", "Anna", "right")
	c := config(s)
	c.PictureAttr = "thumbnailPhoto"
	s.Set(directorytest.Person("anna"), "objectClass", "inetOrgPerson", "extensibleObject")
	d := open(t, c)
	var stamp string
	for _, x := range []struct{ what, raw, kind, wrong string }{
		{"none", "", "", ""},
		{"JPEG", directorytest.Picture("jpeg", 96, 1), "image/jpeg", ""},
		{"PNG", directorytest.Picture("png", 96, 1), "image/png", ""},
		{"GIF", directorytest.Picture("gif", 96, 1), "", "neither JPEG nor PNG"},
		{"SVG", `<svg xmlns="http://www.w3.org/2000/svg"/>`, "", "neither JPEG nor PNG"},
		{"the beginning of a PNG", directorytest.Picture("png", 96, 1)[:20], "", "neither JPEG nor PNG"},
		{"too many bytes", directorytest.Picture("jpeg", 8, 1) + strings.Repeat("x", 2<<20), "", "the limit is 2048 KB"},
		{"too many pixels", directorytest.Picture("png", 5000, 1), "", "5000 by 5000 pixels"},
	} {
		if x.raw != "" {
			s.Set(directorytest.Person("anna"), "thumbnailPhoto", x.raw)
		}
		p, err := d.SignIn(ctx, "anna", "right")
		if err != nil {
			t.Fatal(err)
		}
		if p.Stamp == "" || p.Stamp == stamp {
			t.Errorf("%s: the stamp is %q, and was %q", x.what, p.Stamp, stamp)
		}
		stamp = p.Stamp
		pictures := d.Pictures()
		pic, err := pictures.Of(ctx, p)
		if again, err2 := pictures.Of(ctx, p); string(again.Content) != string(pic.Content) || (err == nil) != (err2 == nil) {
			t.Errorf("%s: once more: %v", x.what, err2)
		}
		pictures.Close()
		if x.wrong == "" && (err != nil || pic.Type != x.kind || string(pic.Content) != x.raw) || x.wrong != "" && (!errors.Is(err, directory.ErrPicture) || !strings.Contains(err.Error(), x.wrong)) {
			t.Errorf("%s: %q, %d bytes, %v", x.what, pic.Type, len(pic.Content), err)
		}
	}
	// Gone since it was read; and no answer at all.
	pictures := d.Pictures()
	defer pictures.Close()
	gone := directory.Person{DN: directorytest.Person("nobody")}
	if pic, err := pictures.Of(ctx, gone); err != nil || pic.Content != nil {
		t.Errorf("%+v %v", pic, err)
	}
	s.Stop()
	if _, err := pictures.Of(ctx, gone); !errors.Is(err, directory.ErrUnavailable) {
		t.Error(err)
	}
	// A name is shown on one line, and is not longer than a name may be.
	s.Run()
	s.Set(directorytest.Person("anna"), "displayName", "Anna\nA."+strings.Repeat("ä", 200))
	if p, err := d.SignIn(ctx, "anna", "right"); err != nil || !strings.HasPrefix(p.Full, "Anna A.ä") || len(p.Full) != 255 || !utf8.ValidString(p.Full) {
		t.Errorf("%q, %v", p.Full, err)
	}
}

func TestSettings(t *testing.T) {
	good := directory.Config{URLs: []string{"ldaps://dc1.example.org"}, BaseDN: "dc=example,dc=org", BindDN: "cn=reader,dc=example,dc=org", Password: "x"}
	if _, err := directory.Open(good); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(c *directory.Config){
		"kind":        func(c *directory.Config) { c.Kind = "nis" },
		"no address":  func(c *directory.Config) { c.URLs = nil },
		"http":        func(c *directory.Config) { c.URLs = []string{"http://dc1"} },
		"a password":  func(c *directory.Config) { c.URLs = []string{"ldaps://a:b@dc1"} },
		"no base":     func(c *directory.Config) { c.BaseDN = "" },
		"base":        func(c *directory.Config) { c.BaseDN = "example.org" },
		"bind":        func(c *directory.Config) { c.BindDN = "reader" },
		"no password": func(c *directory.Config) { c.Password = "" },
		"filter":      func(c *directory.Config) { c.UserFilter = "(objectClass=*" },
		"attribute":   func(c *directory.Config) { c.LoginAttrs = []string{"uid=*)(x"} },
		"authority":   func(c *directory.Config) { c.CA = "-----BEGIN" },
		"page":        func(c *directory.Config) { c.PageSize = -1 },
	} {
		c := good
		change(&c)
		if _, err := directory.Open(c); !errors.Is(err, directory.ErrConfig) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
