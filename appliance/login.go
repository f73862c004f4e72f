package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/settings"
	"holdfast/homeserver/account"
	"holdfast/identity"
	"holdfast/web"
)

// loginRules are the rules of signing in, as they are typed. Password, SSO and
// PasswordAlone are "on" or "off".
type loginRules struct {
	Password      string `json:"password"`
	SSO           string `json:"sso"`
	PasswordAlone string `json:"password_alone"`
	SecondFactor  string `json:"second_factor"` // "nobody", "roles" or "everyone"
	// Groups whose members must have a second factor, too: names with commas between,
	// or "none".
	Groups string `json:"second_factor_groups"`
	Grace  string `json:"second_factor_grace"` // days
	// PasswordMin is how many characters a new password has at least.
	PasswordMin string `json:"password_min"`
	// SessionMax and SessionIdle are how long a browser stays signed in: times as 30d, 12h or
	// 90m. SessionIdle may be "none".
	SessionMax  string `json:"session_max"`
	SessionIdle string `json:"session_idle"`
}

const (
	loginOn  = "on"
	loginOff = "off"
	noGroups = "none"
	noIdle   = "none"
)

// maxGraceDays is the longest time for which a second factor can be put off.
const maxGraceDays = 365

// logins is what the homeserver is told.
func (a *Appliance) logins() account.Logins {
	return account.Logins{Password: a.settings.Get(settings.LoginPassword) != loginOff, SSO: a.settings.Get(settings.LoginSSO) != loginOff}
}

// signInPolicy is what identity is told.
func (a *Appliance) signInPolicy() identity.Policy {
	days, _ := strconv.Atoi(a.settings.Get(settings.FactorGrace))
	since, _ := time.Parse(time.RFC3339, a.settings.Get(settings.FactorSince))
	least, _ := strconv.Atoi(a.settings.Get(settings.PasswordMin))
	most, _ := parseDuration(a.settings.Get(settings.SessionMax))
	idle, _ := parseDuration(a.settings.Get(settings.SessionIdle))
	if most == 0 {
		most = identity.StandardSessions.Most
	}
	return identity.Policy{
		MinPassword:   max(least, identity.MinPassword),
		Sessions:      identity.Lifetimes{Most: most, Idle: idle},
		PasswordAlone: a.settings.Get(settings.PasswordAlone) == loginOn,
		Factor: identity.FactorPolicy{
			Who: a.settings.Get(settings.FactorWho), Groups: strings.Fields(a.settings.Get(settings.FactorGroups)),
			Grace: time.Duration(days) * 24 * time.Hour, Since: since,
		},
	}
}

func (a *Appliance) loginRules(ctx context.Context) (loginRules, error) {
	state := func(on bool) string {
		if on {
			return loginOn
		}
		return loginOff
	}
	l, p := a.logins(), a.signInPolicy()
	r := loginRules{Password: state(l.Password), SSO: state(l.SSO), PasswordAlone: state(p.PasswordAlone), SecondFactor: p.Factor.Who,
		Groups: noGroups, Grace: strconv.Itoa(int(p.Factor.Grace / (24 * time.Hour))),
		PasswordMin: strconv.Itoa(p.MinPassword), SessionMax: asTyped(p.Sessions.Most), SessionIdle: asTyped(p.Sessions.Idle)}
	if r.SecondFactor == "" {
		r.SecondFactor = identity.FactorNobody
	}
	names, err := a.factorGroups(ctx, p.Factor.Groups)
	if len(names) > 0 {
		r.Groups = strings.Join(names, ", ")
	}
	return r, err
}

// factorGroups are the names of groups by their IDs. Those that are gone are left out.
func (a *Appliance) factorGroups(ctx context.Context, ids []string) (names []string, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	all, err := a.core.Load().identity.Groups(ctx)
	for _, g := range all {
		if slices.Contains(ids, g.ID) {
			names = append(names, g.Name)
		}
	}
	return names, err
}

// setLoginRules changes the rules that are not empty. Errors: *ruleError.
func (a *Appliance) setLoginRules(ctx context.Context, change loginRules) error {
	values := map[string]string{}
	for _, r := range []struct{ option, key, value, standard string }{
		{"password", settings.LoginPassword, change.Password, loginOn}, {"sso", settings.LoginSSO, change.SSO, loginOn},
		{"password-alone", settings.PasswordAlone, change.PasswordAlone, loginOff},
	} {
		switch r.value {
		case "":
		case r.standard:
			values[r.key] = ""
		case loginOn, loginOff:
			values[r.key] = r.value
		default:
			return &ruleError{r.option, fmt.Sprintf("must be on or off, not %q", r.value)}
		}
	}
	switch change.SecondFactor {
	case "":
	case identity.FactorNobody:
		values[settings.FactorWho] = ""
	case identity.FactorRoles, identity.FactorEveryone:
		values[settings.FactorWho] = change.SecondFactor
	default:
		return &ruleError{"second-factor", fmt.Sprintf("must be nobody, roles or everyone, not %q", change.SecondFactor)}
	}
	if change.Groups != "" {
		ids, err := a.groupIDs(ctx, change.Groups)
		if err != nil {
			return err
		}
		values[settings.FactorGroups] = strings.Join(ids, " ")
	}
	if change.Grace != "" {
		days, err := strconv.Atoi(change.Grace)
		if err != nil || days < 0 || days > maxGraceDays {
			return &ruleError{"second-factor-grace", fmt.Sprintf("must be a number of days from 0 to %d, not %q", maxGraceDays, change.Grace)}
		}
		values[settings.FactorGrace] = strings.TrimPrefix(strconv.Itoa(days), "0")
	}
	if change.PasswordMin != "" {
		n, err := strconv.Atoi(change.PasswordMin)
		if err != nil || n < identity.MinPassword || n > identity.MaxMinPassword {
			return &ruleError{"password-min", fmt.Sprintf("must be a number of characters from %d to %d, not %q", identity.MinPassword, identity.MaxMinPassword, change.PasswordMin)}
		}
		if values[settings.PasswordMin] = strconv.Itoa(n); n == identity.MinPassword {
			values[settings.PasswordMin] = ""
		}
	}
	shorter, err := a.setSessions(change, values)
	if err != nil {
		return err
	}
	// The time to add one begins when it is decided who must.
	for _, key := range []string{settings.FactorWho, settings.FactorGroups} {
		if v, ok := values[key]; ok && v != a.settings.Get(key) {
			values[settings.FactorSince] = time.Now().UTC().Truncate(time.Second).Format(time.RFC3339)
		}
	}
	if err := a.settings.Put(ctx, values); err != nil || !shorter {
		return err
	}
	return a.core.Load().identity.EndExpired(ctx)
}

// setSessions reads how long browsers stay signed in. It reports whether that is shorter
// than before. Errors: *ruleError.
func (a *Appliance) setSessions(change loginRules, values map[string]string) (shorter bool, err error) {
	was := a.signInPolicy().Sessions
	now := was
	if change.SessionMax != "" {
		now.Most, err = parseDuration(change.SessionMax)
		if err != nil || now.Most < identity.MinSession || now.Most > identity.MaxSession || now.Most%time.Minute != 0 {
			return false, &ruleError{"session-max", fmt.Sprintf("must be a time from %s to %s, as 30d or 12h, not %q", asTyped(identity.MinSession), asTyped(identity.MaxSession), change.SessionMax)}
		}
	}
	if change.SessionIdle == noIdle {
		now.Idle = 0
	} else if change.SessionIdle != "" {
		now.Idle, err = parseDuration(change.SessionIdle)
		if err != nil || now.Idle < identity.MinSessionIdle || now.Idle%time.Minute != 0 {
			return false, &ruleError{"session-idle", fmt.Sprintf("must be a time of %s or more, as 12h or 30m, or none, not %q", asTyped(identity.MinSessionIdle), change.SessionIdle)}
		}
	}
	switch {
	case now == was:
		return false, nil
	case now.Idle > now.Most && change.SessionIdle != "":
		return false, &ruleError{"session-idle", fmt.Sprintf("must not be longer than browsers stay signed in at most, which is %s", asTyped(now.Most))}
	case now.Idle > now.Most:
		return false, &ruleError{"session-max", fmt.Sprintf("must not be shorter than the time without use, which is %s", asTyped(now.Idle))}
	}
	values[settings.SessionMax], values[settings.SessionIdle] = "", ""
	if now.Most != identity.StandardSessions.Most {
		values[settings.SessionMax] = asTyped(now.Most)
	}
	if now.Idle != 0 {
		values[settings.SessionIdle] = asTyped(now.Idle)
	}
	return now.Most < was.Most || now.Idle != 0 && (was.Idle == 0 || now.Idle < was.Idle), nil
}

// asTyped writes a time as parseDuration reads it; 0 is none.
func asTyped(d time.Duration) string {
	switch {
	case d == 0:
		return noIdle
	case d%(24*time.Hour) == 0:
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	case d%time.Hour == 0:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/time.Minute)) + "m"
}

// groupIDs are the IDs of groups, in the order of their age. Errors: *ruleError.
func (a *Appliance) groupIDs(ctx context.Context, names string) (ids []string, err error) {
	if names == noGroups {
		return nil, nil
	}
	all, err := a.core.Load().identity.Groups(ctx)
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(names, ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(all, func(g identity.Group) bool { return strings.EqualFold(g.Name, name) })
		if i < 0 {
			return nil, &ruleError{"second-factor-groups", fmt.Sprintf("names %q, and there is no such group", name)}
		}
		ids = append(ids, all[i].ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// loginControl are the operations of the local socket about signing in.
func (a *Appliance) loginControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/login", func(r *http.Request) (any, error) { return a.loginRules(r.Context()) })
	handle("PUT /v1/login", func(r *http.Request) (any, error) {
		var in loginRules
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		if err := a.setLoginRules(r.Context(), in); err != nil {
			return nil, err
		}
		return a.loginRules(r.Context())
	})
}

func (a console) SignIn(ctx context.Context) (web.SignIn, error) {
	l, p := a.logins(), a.signInPolicy()
	out := web.SignIn{Password: l.Password, SSO: l.SSO, PasswordAlone: p.PasswordAlone, SecondFactor: p.Factor.Who, Groups: []string{}, AllGroups: []string{},
		GraceDays: int(p.Factor.Grace / (24 * time.Hour)), PasswordMin: p.MinPassword, SessionMax: asTyped(p.Sessions.Most), SessionIdle: asTyped(p.Sessions.Idle)}
	if out.SecondFactor == "" {
		out.SecondFactor = identity.FactorNobody
	}
	if due := p.Factor.Since.Add(p.Factor.Grace); !p.Factor.Since.IsZero() && (p.Factor.Who != "" || len(p.Factor.Groups) > 0) {
		out.Due = due.UTC().Format(time.RFC3339)
	}
	all, err := a.id().Groups(ctx)
	if err != nil {
		return out, err
	}
	for _, g := range all {
		out.AllGroups = append(out.AllGroups, g.Name)
		if slices.Contains(p.Factor.Groups, g.ID) {
			out.Groups = append(out.Groups, g.Name)
		}
	}
	n, err := a.id().CountFactors(ctx)
	out.Wanted, out.Missing = n.Wanted, n.Missing
	return out, err
}

func (a console) SetSignIn(ctx context.Context, s web.SignIn) error {
	state := map[bool]string{true: loginOn, false: loginOff}
	r := loginRules{Password: state[s.Password], SSO: state[s.SSO], PasswordAlone: state[s.PasswordAlone], SecondFactor: s.SecondFactor,
		Groups: strings.Join(s.Groups, ","), Grace: strconv.Itoa(s.GraceDays), SessionMax: s.SessionMax, SessionIdle: s.SessionIdle}
	if s.PasswordMin != 0 {
		r.PasswordMin = strconv.Itoa(s.PasswordMin)
	}
	if r.Groups == "" {
		r.Groups = noGroups
	}
	err := a.setLoginRules(ctx, r)
	var wrong *ruleError
	if errors.As(err, &wrong) {
		field := map[string]string{"second-factor": "second_factor", "second-factor-groups": "groups", "second-factor-grace": "grace_days",
			"password-min": "password_min", "session-max": "session_max", "session-idle": "session_idle"}[wrong.option]
		return &web.Error{Code: "bad_rule", Field: field, Message: "This rule " + wrong.text + "."}
	}
	return err
}

func runLoginSet(ctx context.Context, c *cli, _ []string) error {
	if c.login == (loginRules{}) {
		return &usageError{"say what to change, such as --password off"}
	}
	return c.loginRules(ctx, "PUT", c.login)
}

func runLoginShow(ctx context.Context, c *cli, _ []string) error {
	return c.loginRules(ctx, "GET", nil)
}

func (c *cli) loginRules(ctx context.Context, method string, in any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var l loginRules
	if err := cl.call(ctx, method, "/v1/login", in, &l); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(l)
	}
	fmt.Fprintf(c.out, "Password in the application:   %s\nBrowser and login token (SSO): %s\nPassword past a second factor: %s\n", l.Password, l.SSO, l.PasswordAlone)
	fmt.Fprintf(c.out, "Who must have a second factor: %s\nMembers of these groups, too:  %s\nDays to add one:               %s\n", l.SecondFactor, l.Groups, l.Grace)
	fmt.Fprintf(c.out, "Characters of a new password:  %s or more\nBrowsers stay signed in:       %s\nWithout use at most:           %s\n", l.PasswordMin, l.SessionMax, l.SessionIdle)
	return nil
}
