package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/identity/account"
	"holdfast/store"
	"holdfast/store/audit"
)

// This file has what becomes of what a provider says about somebody. It is the same for
// every kind of provider: what are claims of OpenID Connect are attributes of SAML.

// Bounds of a mapping, and of what a provider says.
const (
	maxMapped  = 50   // groups: who is in them travels in a cookie
	maxDomains = 50   // of mail
	maxValues  = 50   // of a claim that is asked for
	maxGroups  = 5000 // that a provider may say somebody is in
)

// ErrNotAdmitted is somebody whom the provider signed in and who may not come in here.
var ErrNotAdmitted = errors.New("upstream: the provider signed the person in, but not everybody of it may come in here")

// Mapping says what of a person is taken over from a provider, and who may come in.
type Mapping struct {
	// UserClaim and NameClaim are the claims with the user name and the displayed one.
	// Of SAML they are names of attributes, as all claims here.
	UserClaim string `json:"user_claim,omitempty"` // preferred_username
	NameClaim string `json:"name_claim,omitempty"` // name
	// NameFollows has the displayed name follow the provider's at each sign-in; else it is
	// taken when the account is made, and the person's own afterwards.
	NameFollows bool `json:"name_follows,omitempty"`
	// MailClaim is the claim with the e-mail address. It counts where the provider says
	// that it verified it, or MailTrusted says so for all of them. Nobody is found by it.
	MailClaim   string `json:"mail_claim,omitempty"` // email
	MailTrusted bool   `json:"mail_trusted,omitempty"`
	// MailTaken gives the account the address, unless another has it.
	MailTaken bool `json:"mail_taken,omitempty"`
	// Groups are those here that people are put into and taken out of at each sign-in, by
	// the names of groups there. Nobody is put into others. As they are kept they are
	// ULIDs of local groups, as administrators see them names.
	GroupsClaim string            `json:"groups_claim,omitempty"` // groups
	Groups      map[string]string `json:"groups,omitempty"`
	// Only who has one of the values in the claim comes in; without values, who has any.
	RequireClaim  string   `json:"require_claim,omitempty"`
	RequireValues []string `json:"require_values,omitempty"`
	// Domains are those of the verified addresses of whoever comes in; none: all.
	Domains []string `json:"domains,omitempty"`
}

// check says what is wrong with a mapping, and brings it into the form that is kept.
func (m *Mapping) check() error {
	for _, c := range []string{m.UserClaim, m.NameClaim, m.MailClaim, m.GroupsClaim, m.RequireClaim} {
		if len(c) > maxText {
			return wrong("the name of a claim is too long")
		}
	}
	for there := range m.Groups {
		if there == "" || len(there) > maxText {
			return wrong("the name of a group of the provider is empty or too long")
		}
	}
	for i, d := range m.Domains {
		d = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(d), "@"))
		if d == "" || len(d) > maxText || strings.ContainsFunc(d, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || strings.ContainsAny(d, "@*/,") {
			return wrong("%.100q is no domain of e-mail addresses, such as example.org; each is named by itself, without * for those below it", d)
		}
		m.Domains[i] = d
	}
	switch {
	case len(m.Groups) > maxMapped:
		return wrong("more than %d groups are too many", maxMapped)
	case len(m.Domains) > maxDomains || len(m.RequireValues) > maxValues:
		return wrong("more than %d domains or values are too many", maxDomains)
	case len(m.RequireValues) > 0 && m.RequireClaim == "":
		return wrong("a value that people must have needs the claim that it is looked for in")
	case slices.ContainsFunc(m.RequireValues, func(v string) bool { return v == "" || len(v) > maxText }):
		return wrong("a value that people must have is empty or too long")
	}
	return nil
}

// resolve makes ULIDs of the names of groups here. The error says which there is not.
func (m *Mapping) resolve(q store.Querier, a *account.Accounts) error {
	if len(m.Groups) == 0 {
		m.Groups = nil
		return nil
	}
	out := map[string]string{}
	for there, name := range m.Groups {
		g, err := a.LoadGroup(q, name)
		switch {
		case errors.Is(err, account.ErrNoGroup):
			return wrong("there is no group %.100q here; make it first", name)
		case err != nil:
			return err
		case g.Source != account.LocalGroup:
			return wrong("who is in the group %.100q is said by a directory", name)
		}
		out[there] = g.ID
	}
	m.Groups = out
	return nil
}

// names makes names of the ULIDs; groups that are gone are left out.
func (m *Mapping) names(all []account.Group) {
	if len(m.Groups) == 0 {
		return
	}
	out := map[string]string{}
	for there, id := range m.Groups {
		for _, g := range all {
			if g.ID == id {
				out[there] = g.Name
			}
		}
	}
	m.Groups = out
}

// claims are what a provider says about a person: the values of each claim, none where it
// is not there.
type claims func(name string) []string

// admit reads what is said about somebody besides their names, and says whether they may
// come in. verified: the provider verified the address. partly: it left groups out, as
// some do where there are many. Errors: ErrNotAdmitted.
func (m *Mapping) admit(who *Person, get claims, verified, partly bool) error {
	if v := get(m.MailClaim); len(v) > 0 && (verified || m.MailTrusted) {
		if mail, err := account.CanonicalEmail(v[0]); err == nil {
			who.Mail = mail
		}
	}
	if len(m.Groups) > 0 {
		there := get(m.GroupsClaim)
		if len(there) > maxGroups {
			there, partly = there[:maxGroups], true
		}
		for _, g := range there {
			if id, ok := m.Groups[g]; ok && !slices.Contains(who.Groups, id) {
				who.Groups = append(who.Groups, id)
			}
		}
		slices.Sort(who.Groups)
		who.Partly = partly
	}
	if m.RequireClaim != "" {
		has := get(m.RequireClaim)
		if !slices.ContainsFunc(has, func(v string) bool {
			return len(m.RequireValues) == 0 && v != "" && v != "false" || slices.Contains(m.RequireValues, v)
		}) {
			return fmt.Errorf("%w: the claim %.100q does not have what is required", ErrNotAdmitted, m.RequireClaim)
		}
	}
	if len(m.Domains) > 0 {
		if _, domain, _ := strings.Cut(who.Mail, "@"); who.Mail == "" || !slices.Contains(m.Domains, domain) {
			return fmt.Errorf("%w: there is no verified e-mail address of an allowed domain", ErrNotAdmitted)
		}
	}
	return nil
}

// origin names a provider as the giver of groups.
func origin(id string) string { return "upstream " + id }

// followTx gives and takes what the provider says of somebody who comes in.
func (u *Upstreams) followTx(tx *store.Tx, who Person, x account.User) error {
	u.mu.Lock()
	o := u.open[who.Upstream]
	u.mu.Unlock()
	if o == nil {
		return nil
	}
	m := o.c.Mapping
	if m.MailTaken && who.Mail != "" {
		if err := u.o.Accounts.TakeEmailTx(tx, x, who.Mail, who.Upstream); err != nil {
			return err
		}
	}
	mapped := slices.Collect(maps.Values(m.Groups)) // it may have changed since the person was asked
	give := slices.DeleteFunc(slices.Clone(who.Groups), func(id string) bool { return !slices.Contains(mapped, id) })
	changed, err := u.o.Accounts.GiveTx(tx, x, origin(who.Upstream), give, who.Partly)
	if err != nil || !changed || u.o.Changed == nil {
		return err
	}
	return u.o.Changed(tx, x.ID)
}

// follow is followTx for somebody who has an account, and lets the displayed name follow.
func (u *Upstreams) follow(ctx context.Context, who Person, x account.User) error {
	if x.Err() != nil {
		return nil // they do not come in
	}
	if err := u.o.DB.Write(audit.As(ctx, origin(who.Upstream)), func(tx *store.Tx) error { return u.followTx(tx, who, x) }); err != nil {
		return err
	}
	u.mu.Lock()
	o := u.open[who.Upstream]
	follows := o != nil && o.c.NameFollows
	u.mu.Unlock()
	if !follows || who.Full == "" || u.o.Rename == nil || u.o.DisplayName == nil {
		return nil
	}
	has, err := u.o.DisplayName(ctx, x.UserID)
	if err != nil || has == who.Full {
		return err
	}
	return u.o.Rename(ctx, x.UserID, who.Full)
}
