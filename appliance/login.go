package appliance

import (
	"context"
	"fmt"
	"net/http"

	"holdfast/appliance/settings"
	"holdfast/homeserver/account"
)

// loginRules say which ways of the legacy login are open: "on" or "off" each.
type loginRules struct {
	Password string `json:"password"`
	SSO      string `json:"sso"`
}

const (
	loginOn  = "on"
	loginOff = "off"
)

// logins is what the homeserver is told.
func (a *Appliance) logins() account.Logins {
	return account.Logins{Password: a.settings.Get(settings.LoginPassword) != loginOff, SSO: a.settings.Get(settings.LoginSSO) != loginOff}
}

func (a *Appliance) loginRules() loginRules {
	state := func(on bool) string {
		if on {
			return loginOn
		}
		return loginOff
	}
	l := a.logins()
	return loginRules{state(l.Password), state(l.SSO)}
}

// setLoginRules changes the rules that are not empty.
func (a *Appliance) setLoginRules(ctx context.Context, change loginRules) error {
	values := map[string]string{}
	for _, r := range []struct{ option, key, value string }{
		{"password", settings.LoginPassword, change.Password}, {"sso", settings.LoginSSO, change.SSO},
	} {
		switch r.value {
		case "":
		case loginOn:
			values[r.key] = ""
		case loginOff:
			values[r.key] = loginOff
		default:
			return fmt.Errorf("--%s must be on or off, not %q", r.option, r.value)
		}
	}
	return a.settings.Put(ctx, values)
}

// loginControl are the operations of the local socket about the legacy login.
func (a *Appliance) loginControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/login", func(*http.Request) (any, error) { return a.loginRules(), nil })
	handle("PUT /v1/login", func(r *http.Request) (any, error) {
		var in loginRules
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		err := a.setLoginRules(r.Context(), in)
		return a.loginRules(), err
	})
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
	fmt.Fprintf(c.out, "Password in the application:   %s\nBrowser and login token (SSO): %s\n", l.Password, l.SSO)
	return nil
}
