// Package directory reads people from an LDAP directory or from Active Directory, and
// checks their passwords there.
//
// Invariants: a password goes over TLS or stays on this machine; an empty one is never
// sent (RFC 4513 section 5.1.2: the directory would say yes); what people type is
// escaped in filters; answers are bounded; referrals are not followed.
package directory

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-ldap/ldap/v3"
)

// Errors of SignIn and People.
var (
	// ErrWrongPassword: no such person, or another password. Nobody is told which.
	ErrWrongPassword = errors.New("directory: wrong user name or password")
	// ErrDisabled: the directory knows the person and does not let them in.
	ErrDisabled = errors.New("directory: the account is disabled, locked or expired in the directory")
	// ErrChangePassword: the password is right and has to be changed at the directory first.
	ErrChangePassword = errors.New("directory: the password has expired; it is changed where the directory is kept")
	// ErrUnavailable: none of the directory's servers gave an answer.
	ErrUnavailable = errors.New("directory: the directory cannot be reached")
	// ErrRefused: the directory does not let this server read.
	ErrRefused = errors.New("directory: the directory refuses this server")
	// ErrConfig: the settings cannot work.
	ErrConfig = errors.New("directory: wrong settings")
	// ErrTooMany: the directory has more people or groups than are read.
	ErrTooMany = errors.New("directory: too many entries")
)

// Kinds of directories.
const (
	LDAP            = "ldap" // RFC 4511 with inetOrgPerson: OpenLDAP, 389 DS, FreeIPA
	ActiveDirectory = "ad"   // also Samba
)

// Bounds of what a directory may send.
const (
	maxEntries = 200_000
	maxValue   = 1024 // bytes of an attribute that is used
	maxShown   = 256  // bytes of a displayed name
	maxNesting = 10   // groups in groups
)

// Config says where a directory is and what in it is meant. Empty fields get what
// suits the kind, see Defaults.
type Config struct {
	Kind     string   `json:"kind"`
	URLs     []string `json:"urls"`         // "ldaps://dc1.example.org", or "ldap://…": StartTLS; tried in order
	CA       string   `json:"ca,omitempty"` // PEM of the authorities to trust; "": the system's
	BindDN   string   `json:"bind_dn"`      // who reads; "": anonymously
	Password string   `json:"password,omitempty"`

	BaseDN     string   `json:"base_dn"`
	UserFilter string   `json:"user_filter,omitempty"` // "(objectClass=inetOrgPerson)"
	LoginAttrs []string `json:"login_attrs,omitempty"` // what people may type as their name
	IDAttr     string   `json:"id_attr,omitempty"`     // stays when the person is renamed
	NameAttr   string   `json:"name_attr,omitempty"`   // the user name here
	FullAttr   string   `json:"full_attr,omitempty"`   // the name that is shown
	MailAttr   string   `json:"mail_attr,omitempty"`
	// PictureAttr has a JPEG or PNG of the person: jpegPhoto, thumbnailPhoto or photo.
	PictureAttr string `json:"picture_attr,omitempty"`

	GroupBaseDN string `json:"group_base_dn,omitempty"` // "": BaseDN
	GroupFilter string `json:"group_filter,omitempty"`
	GroupAttr   string `json:"group_attr,omitempty"` // the group's name
	// GroupIDAttr stays when the group is renamed, as IDAttr does of a person.
	GroupIDAttr string `json:"group_id_attr,omitempty"`
	NoGroups    bool   `json:"no_groups,omitempty"`

	PageSize int           `json:"page_size,omitempty"` // entries an answer, 500
	Timeout  time.Duration `json:"timeout,omitempty"`   // of each operation, 10 s
}

// Defaults fills in what was left empty.
func (c Config) Defaults() Config {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	if c.Kind == ActiveDirectory {
		set(&c.UserFilter, "(&(objectCategory=person)(objectClass=user))")
		set(&c.IDAttr, "objectGUID")
		set(&c.NameAttr, "sAMAccountName")
		set(&c.GroupFilter, "(objectClass=group)")
		set(&c.GroupIDAttr, "objectGUID")
		set(&c.PictureAttr, "thumbnailPhoto")
		if len(c.LoginAttrs) == 0 {
			c.LoginAttrs = []string{"sAMAccountName", "userPrincipalName"}
		}
	} else {
		set(&c.Kind, LDAP)
		set(&c.UserFilter, "(objectClass=inetOrgPerson)")
		set(&c.IDAttr, "entryUUID")
		set(&c.NameAttr, "uid")
		set(&c.GroupFilter, "(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)(objectClass=posixGroup))")
		set(&c.GroupIDAttr, "entryUUID")
		set(&c.PictureAttr, "jpegPhoto")
		if len(c.LoginAttrs) == 0 {
			c.LoginAttrs = []string{"uid"}
		}
	}
	set(&c.FullAttr, "displayName")
	set(&c.MailAttr, "mail")
	set(&c.GroupAttr, "cn")
	set(&c.GroupBaseDN, c.BaseDN)
	if c.PageSize == 0 {
		c.PageSize = 500
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	return c
}

// Person is somebody in the directory.
type Person struct {
	Subject  string  `json:"subject"` // of IDAttr; never given to somebody else
	DN       string  `json:"dn"`
	Name     string  `json:"name"` // user name, in lower case
	Full     string  `json:"full"` // display name
	Mail     string  `json:"mail"`
	Disabled bool    `json:"disabled"`
	Groups   []Group `json:"groups"` // by name; also those that contain these
	// Stamp changes when the entry does; "": the directory does not tell. Pictures are
	// only read again then.
	Stamp string `json:"-"`
}

// stamps are attributes that change with an entry: of OpenLDAP, Active Directory (each
// server counts for itself), and RFC 4512 section 3.4, to the second.
var stamps = []string{"entryCSN", "uSNChanged", "modifyTimestamp", "whenChanged"}

// Group is a group in the directory.
type Group struct {
	ID   string `json:"id"` // of GroupIDAttr; "": the directory does not tell it
	Name string `json:"name"`
}

// Reading is all of a directory.
type Reading struct {
	People []Person
	Groups []Group // by name; none where they are not read
}

// Directory is a directory. Its methods are safe for concurrent use; each opens a
// connection of its own.
type Directory struct {
	c     Config
	roots *x509.CertPool
	urls  []*url.URL
}

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}

// Open checks the settings; it connects to nothing. Errors: ErrConfig.
func Open(c Config) (*Directory, error) {
	c = c.Defaults()
	d := &Directory{c: c}
	if c.Kind != LDAP && c.Kind != ActiveDirectory {
		return nil, wrong("the kind is %q or %q", LDAP, ActiveDirectory)
	}
	if len(c.URLs) == 0 {
		return nil, wrong("give at least one address, as ldaps://dc1.example.org")
	}
	for _, s := range c.URLs {
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return nil, wrong("%q is no address of a directory, as ldaps://dc1.example.org or ldap://dc1.example.org:389", s)
		}
		if u.Scheme != "ldap" && u.Scheme != "ldaps" {
			return nil, wrong("%q begins neither with ldaps:// nor with ldap://", s)
		}
		d.urls = append(d.urls, u)
	}
	if c.CA != "" {
		d.roots = x509.NewCertPool()
		if !d.roots.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, wrong("the certificate authority is no certificate in PEM")
		}
	}
	for what, dn := range map[string]string{"base DN": c.BaseDN, "base DN of groups": c.GroupBaseDN, "bind DN": c.BindDN} {
		if dn == "" && what != "bind DN" {
			return nil, wrong("the %s is missing, as dc=example,dc=org", what)
		}
		// Active Directory also takes a name as user@example.org.
		if _, err := ldap.ParseDN(dn); err != nil && (what != "bind DN" || c.Kind != ActiveDirectory) {
			return nil, wrong("the %s %q is no distinguished name", what, dn)
		}
	}
	if c.BindDN != "" && c.Password == "" {
		return nil, wrong("the password of %s is missing", c.BindDN)
	}
	for what, f := range map[string]string{"filter of people": c.UserFilter, "filter of groups": c.GroupFilter} {
		if _, err := ldap.CompileFilter(f); err != nil {
			return nil, wrong("the %s %q: %v", what, f, err)
		}
	}
	for _, a := range append([]string{c.IDAttr, c.NameAttr, c.FullAttr, c.MailAttr, c.PictureAttr, c.GroupAttr, c.GroupIDAttr}, c.LoginAttrs...) {
		if !attribute(a) {
			return nil, wrong("%q is no attribute's name", a)
		}
	}
	if c.PageSize < 1 || c.PageSize > 10_000 || c.Timeout < time.Second || c.Timeout > time.Minute {
		return nil, wrong("pages have 1 to 10000 entries, an operation 1 to 60 seconds")
	}
	return d, nil
}

// attribute reports whether s is an attribute description (RFC 4512 section 2.5).
func attribute(s string) bool {
	ok := len(s) > 0 && len(s) < 100
	for _, r := range s {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-.;", r))
	}
	return ok
}

// dial connects to the first server that answers, over TLS unless it is on this machine.
func (d *Directory) dial(ctx context.Context) (*ldap.Conn, error) {
	var failed error
	for _, u := range d.urls {
		c, err := d.connect(ctx, u)
		if err == nil {
			return c, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", u.Host, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, failed)
}

func (d *Directory) connect(ctx context.Context, u *url.URL) (*ldap.Conn, error) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"ldap": "389", "ldaps": "636"}[u.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, d.c.Timeout)
	defer cancel()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{ServerName: u.Hostname(), RootCAs: d.roots, MinVersion: tls.VersionTLS12}
	if u.Scheme == "ldaps" {
		t := tls.Client(raw, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		c := ldap.NewConn(t, true)
		c.SetTimeout(d.c.Timeout)
		c.Start()
		return c, nil
	}
	plain := func(raw net.Conn) *ldap.Conn {
		c := ldap.NewConn(raw, false)
		c.SetTimeout(d.c.Timeout)
		c.Start()
		return c
	}
	c := plain(raw)
	if err := c.StartTLS(conf); err != nil {
		c.Close()
		if here, ok := raw.RemoteAddr().(*net.TCPAddr); !ok || !here.IP.IsLoopback() || !ldap.IsErrorAnyOf(err, ldap.LDAPResultProtocolError, ldap.LDAPResultUnavailable, ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultOperationsError) {
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
		// A connection on which StartTLS was refused answers nothing more: the library's
		// reader waits for TLS. Another one, to the same address.
		if raw, err = dialer.DialContext(ctx, "tcp", raw.RemoteAddr().String()); err != nil {
			return nil, err
		}
		return plain(raw), nil
	}
	return c, nil
}

// reader is a connection that may read.
func (d *Directory) reader(ctx context.Context) (*ldap.Conn, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	if d.c.BindDN == "" {
		err = c.UnauthenticatedBind("")
	} else {
		err = c.Bind(d.c.BindDN, d.c.Password)
	}
	if err != nil {
		c.Close()
		return nil, d.failure(err)
	}
	return c, nil
}

// failure sorts an error of the directory.
func (d *Directory) failure(err error) error {
	var e *ldap.Error
	if !errors.As(err, &e) || e.ResultCode >= ldap.ErrorNetwork || e.ResultCode == ldap.LDAPResultBusy || e.ResultCode == ldap.LDAPResultUnavailable {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

// SignIn checks a person's password. Errors: ErrWrongPassword, ErrDisabled,
// ErrChangePassword, ErrUnavailable, ErrRefused.
func (d *Directory) SignIn(ctx context.Context, name, password string) (Person, error) {
	if name == "" || password == "" || len(name) > maxValue || len(password) > maxValue || strings.ContainsRune(name, 0) {
		return Person{}, ErrWrongPassword
	}
	c, err := d.reader(ctx)
	if err != nil {
		return Person{}, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	var either strings.Builder
	for _, a := range d.c.LoginAttrs {
		fmt.Fprintf(&either, "(%s=%s)", a, ldap.EscapeFilter(name))
	}
	people, err := d.people(c, fmt.Sprintf("(&%s(|%s))", d.c.UserFilter, &either), 2)
	if err != nil {
		return Person{}, err
	}
	if len(people) != 1 { // also where the name could be two people's
		return Person{}, ErrWrongPassword
	}
	p := people[0]
	if !d.c.NoGroups {
		if p.Groups, err = d.groupsOf(c, p); err != nil {
			return Person{}, err
		}
	}
	// On this connection the reader's rights end.
	if err := c.Bind(p.DN, password); err != nil {
		return Person{}, d.refusal(err)
	}
	if p.Disabled {
		return Person{}, ErrDisabled
	}
	return p, nil
}

// refusal is why the directory did not take a person's password. More than that it was wrong
// is said only where the directory looked at it before: else anybody could ask who is in the
// directory, and whose account is locked there.
func (d *Directory) refusal(err error) error {
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials):
		// Active Directory says more: "… data 533, v2580". Source: MS-ERREF, win32
		// codes 0x52e (wrong), 0x530 to 0x533, 0x701, 0x773. 0x775 (locked) is said
		// whatever was typed.
		_, rest, _ := strings.Cut(err.Error(), ", data ")
		code, _, _ := strings.Cut(rest, ",")
		switch code {
		case "530", "531", "533", "701":
			return ErrDisabled
		case "532", "773":
			return ErrChangePassword
		}
		return ErrWrongPassword
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultConstraintViolation, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultNoSuchObject):
		return ErrWrongPassword // 389 DS and others, of locked and inactive accounts
	}
	return d.failure(err)
}

// Read lists everybody with their groups, and all groups. Errors: ErrUnavailable,
// ErrRefused, ErrTooMany.
func (d *Directory) Read(ctx context.Context) (r Reading, err error) {
	c, err := d.reader(ctx)
	if err != nil {
		return r, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if r.People, err = d.people(c, d.c.UserFilter, 0); err != nil || d.c.NoGroups {
		return r, err
	}
	groups, err := d.groups(c)
	if err != nil {
		return Reading{}, err
	}
	for i := range r.People {
		r.People[i].Groups = groups.of(r.People[i])
	}
	r.Groups = groups.all
	return r, nil
}

// people searches; limit 0: all.
func (d *Directory) people(c *ldap.Conn, filter string, limit int) ([]Person, error) {
	attrs := []string{d.c.IDAttr, d.c.NameAttr, d.c.FullAttr, d.c.MailAttr, "cn", "userAccountControl", "pwdAccountLockedTime", "nsAccountLock", "shadowExpire"}
	attrs = append(attrs, stamps...)
	entries, err := d.search(c, d.c.BaseDN, filter, attrs, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Person, 0, len(entries))
	for _, e := range entries {
		p := Person{DN: e.DN, Name: strings.ToLower(value(e, d.c.NameAttr)), Full: shown(value(e, d.c.FullAttr)), Mail: value(e, d.c.MailAttr), Disabled: disabled(e)}
		if p.Subject = subject(e, d.c.IDAttr); p.Subject == "" || p.Name == "" {
			continue // nothing to know them by
		}
		if p.Full == "" {
			p.Full = shown(value(e, "cn"))
		}
		for _, a := range stamps {
			if v := value(e, a); v != "" {
				p.Stamp += a + "=" + v + " "
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// search reads in pages (RFC 2696).
func (d *Directory) search(c *ldap.Conn, base, filter string, attrs []string, limit int) ([]*ldap.Entry, error) {
	page := ldap.NewControlPaging(uint32(d.c.PageSize))
	var all []*ldap.Entry
	for {
		req := ldap.NewSearchRequest(base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, limit, int(d.c.Timeout/time.Second), false, filter, attrs, nil)
		if limit == 0 {
			req.Controls = []ldap.Control{page}
		}
		res, err := c.Search(req)
		if err != nil {
			if limit > 0 && res != nil && ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) {
				return res.Entries, nil
			}
			if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
				return nil, fmt.Errorf("%w: there is no %s in the directory, or this server may not see it", ErrRefused, base)
			}
			return nil, d.failure(err)
		}
		if all = append(all, res.Entries...); len(all) > maxEntries {
			return nil, fmt.Errorf("%w: more than %d below %s", ErrTooMany, maxEntries, base)
		}
		next, ok := ldap.FindControl(res.Controls, ldap.ControlTypePaging).(*ldap.ControlPaging)
		if limit > 0 || !ok || len(next.Cookie) == 0 {
			return all, nil
		}
		page.SetCookie(next.Cookie)
	}
}

// shown is a name as it can be shown: of one line, and cut where it is too long.
func shown(name string) string {
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	return strings.TrimSpace(strings.ToValidUTF8(name[:min(len(name), maxShown)], ""))
}

func value(e *ldap.Entry, attr string) string {
	v := strings.TrimSpace(e.GetEqualFoldAttributeValue(attr))
	if len(v) > maxValue {
		return ""
	}
	return v
}

// subject is the entry's own name of itself; one that is not text, as objectGUID, in hex.
func subject(e *ldap.Entry, attr string) string {
	if !strings.EqualFold(attr, "objectGUID") {
		return value(e, attr)
	}
	raw := e.GetEqualFoldRawAttributeValue(attr)
	if len(raw) != 16 {
		return ""
	}
	return hex.EncodeToString(raw)
}

// disabled reports whether an entry says that the person may not sign in.
// Sources: MS-ADTS 2.2.16 (ACCOUNTDISABLE is 2); draft-behera-ldap-password-policy
// (pwdAccountLockedTime 000001010000Z: until an administrator unlocks it); 389 DS;
// RFC 2307 (shadowExpire, days since 1970).
func disabled(e *ldap.Entry) bool {
	if n, err := strconv.ParseInt(value(e, "userAccountControl"), 10, 64); err == nil && n&2 != 0 {
		return true
	}
	if value(e, "pwdAccountLockedTime") == "000001010000Z" || strings.EqualFold(value(e, "nsAccountLock"), "true") {
		return true
	}
	n, err := strconv.ParseInt(value(e, "shadowExpire"), 10, 64)
	return err == nil && n > 0 && time.Now().After(time.Unix(n*86400, 0))
}

// groups are the groups of a directory by their members: lower-case DNs, and, of
// POSIX groups, user names.
type groups struct {
	all      []Group
	byMember map[string][]group
}

type group struct {
	dn string
	Group
}

// group is an entry as a group; false: it has no name.
func (d *Directory) group(e *ldap.Entry) (group, bool) {
	g := group{canonical(e.DN), Group{subject(e, d.c.GroupIDAttr), value(e, d.c.GroupAttr)}}
	return g, g.Name != ""
}

// sorted puts groups in order, each once.
func sorted(list []Group) []Group {
	slices.SortFunc(list, func(a, b Group) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return slices.Compact(list)
}

func (d *Directory) groups(c *ldap.Conn) (groups, error) {
	entries, err := d.search(c, d.c.GroupBaseDN, d.c.GroupFilter, []string{d.c.GroupAttr, d.c.GroupIDAttr, "member", "uniqueMember", "memberUid"}, 0)
	if err != nil {
		return groups{}, err
	}
	out := groups{byMember: map[string][]group{}}
	for _, e := range entries {
		g, ok := d.group(e)
		if !ok {
			continue
		}
		out.all = append(out.all, g.Group)
		for _, a := range []string{"member", "uniqueMember"} {
			members, err := d.all(c, e, a)
			if err != nil {
				return groups{}, err
			}
			for _, m := range members {
				out.add(canonical(m), g)
			}
		}
		for _, m := range e.GetEqualFoldAttributeValues("memberUid") {
			out.add("uid:"+strings.ToLower(m), g)
		}
	}
	out.all = sorted(out.all)
	return out, nil
}

// all gives the values of an attribute that has many: Active Directory sends 1,500, and
// the next when asked. Source: MS-ADTS 3.1.1.3.1.3.3 ("member;range=0-1499", the last "1500-*").
func (d *Directory) all(c *ldap.Conn, e *ldap.Entry, attr string) ([]string, error) {
	out := e.GetEqualFoldAttributeValues(attr)
	for len(out) <= maxEntries {
		var values []string
		last := true
		for _, a := range e.Attributes {
			name, part, ok := strings.Cut(strings.ToLower(a.Name), ";range=")
			if ok && name == strings.ToLower(attr) && len(a.Values) > 0 {
				values, last = a.Values, strings.HasSuffix(part, "-*")
			}
		}
		if out = append(out, values...); last {
			return out, nil
		}
		req := ldap.NewSearchRequest(e.DN, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, int(d.c.Timeout/time.Second), false,
			"(objectClass=*)", []string{fmt.Sprintf("%s;range=%d-*", attr, len(out))}, nil)
		res, err := c.Search(req)
		if err != nil {
			return nil, d.failure(err)
		}
		if len(res.Entries) != 1 {
			return out, nil
		}
		e = res.Entries[0]
	}
	return nil, fmt.Errorf("%w: more than %d members of %s", ErrTooMany, maxEntries, e.DN)
}

// groupsOf finds one person's groups without reading all of them.
func (d *Directory) groupsOf(c *ldap.Conn, p Person) ([]Group, error) {
	found, seen := []Group{}, map[string]bool{}
	next := []string{"(member=" + ldap.EscapeFilter(p.DN) + ")(uniqueMember=" + ldap.EscapeFilter(p.DN) + ")(memberUid=" + ldap.EscapeFilter(p.Name) + ")"}
	for range maxNesting {
		var more []string
		for _, f := range next {
			entries, err := d.search(c, d.c.GroupBaseDN, "(&"+d.c.GroupFilter+"(|"+f+"))", []string{d.c.GroupAttr, d.c.GroupIDAttr}, 0)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				if g, ok := d.group(e); ok && !seen[g.dn] {
					seen[g.dn] = true
					found = append(found, g.Group)
					more = append(more, "(member="+ldap.EscapeFilter(e.DN)+")(uniqueMember="+ldap.EscapeFilter(e.DN)+")")
				}
			}
		}
		if next = more; len(next) == 0 {
			break
		}
	}
	return sorted(found), nil
}

func (g groups) add(member string, to group) { g.byMember[member] = append(g.byMember[member], to) }

// of finds a person's groups, and those that contain these.
func (g groups) of(p Person) []Group {
	seen, found := map[string]bool{}, []Group{}
	next := []string{canonical(p.DN), "uid:" + p.Name}
	for range maxNesting {
		var more []string
		for _, m := range next {
			for _, x := range g.byMember[m] {
				if !seen[x.dn] {
					seen[x.dn] = true
					found, more = append(found, x.Group), append(more, x.dn)
				}
			}
		}
		if next = more; len(next) == 0 {
			break
		}
	}
	return sorted(found)
}

// canonical writes a DN in one way, for comparison.
func canonical(dn string) string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return strings.ToLower(dn)
	}
	return strings.ToLower(parsed.String())
}
