package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/identity"
)

// This file has the applications that sign people in here, at the command line.

// appFlags are what a new application is told at the command line.
type appFlags struct {
	Name       string   `json:"name"`
	Template   string   `json:"template"`
	Address    string   `json:"url"`
	Redirects  []string `json:"redirects"`
	Back       []string `json:"post_logout_redirects"`
	Backchan   string   `json:"backchannel_logout"`
	Groups     []string `json:"groups"`
	Silent     bool     `json:"skip_consent"`
	Pairwise   bool     `json:"pairwise"`
	Introspect bool     `json:"introspect_all"`
	JWKS       string   `json:"jwks"` // a JSON Web Key Set
	JWKSFile   string   `json:"-"`
	CA         string   `json:"ca"` // certificates in PEM
	CAFile     string   `json:"-"`
	Everybody  bool     `json:"-"`
	Remove     string   `json:"-"`
	Now        bool     `json:"-"`
}

// appChange is what is changed of an application; nil: nothing.
type appChange struct {
	Groups   []string `json:"groups"` // not nil and empty: it is for everybody
	Backchan *string  `json:"backchannel_logout"`
	CA       *string  `json:"ca"`
}

// appInfo is an application as the command line prints it.
type appInfo struct {
	ID        string       `json:"client_id"`
	Name      string       `json:"name"`
	Template  string       `json:"template"`
	Issuer    string       `json:"issuer"`
	Secret    string       `json:"client_secret,omitempty"`
	Redirects []string     `json:"redirect_uris"`
	Logouts   []string     `json:"post_logout_redirect_uris,omitempty"`
	Backchan  string       `json:"backchannel_logout_uri,omitempty"`
	OwnCA     bool         `json:"own_ca,omitempty"` // other certificates than the machine's are trusted there
	Groups    []string     `json:"groups,omitempty"`
	Gone      []string     `json:"removed_groups,omitempty"` // those that it was for and that are gone
	Disabled  bool         `json:"disabled"`
	Secrets   []secretInfo `json:"secrets,omitempty"`
	LastUsed  time.Time    `json:"last_used,omitzero"`
}

type secretInfo struct {
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

type keyInfo struct {
	ID    string    `json:"kid"`
	State string    `json:"state"`
	From  time.Time `json:"from"`
}

func (a *Appliance) toAppInfo(x *identity.App) appInfo {
	i := appInfo{ID: x.ID, Name: x.Name, Template: x.Template, Issuer: a.sharedURL(), Redirects: x.RedirectURIs, Logouts: x.LogoutURIs, Backchan: x.BackchannelURI, OwnCA: x.CA != "", Disabled: x.Disabled, LastUsed: x.LastUsed}
	for _, g := range x.Access {
		if g.Gone {
			i.Gone = append(i.Gone, g.Name)
		} else {
			i.Groups = append(i.Groups, g.Name)
		}
	}
	for _, s := range x.Secrets {
		i.Secrets = append(i.Secrets, secretInfo{s.ID, s.Created, s.LastUsed})
	}
	return i
}

func (a *Appliance) appControl(handle func(string, func(*http.Request) (any, error))) {
	id := func() *identity.Service { return a.core.Load().identity }
	handle("GET /v1/apps", func(r *http.Request) (any, error) {
		list, err := id().Apps(r.Context())
		out := make([]appInfo, 0, len(list))
		for _, x := range list {
			out = append(out, a.toAppInfo(x))
		}
		return out, err
	})
	handle("POST /v1/apps", func(r *http.Request) (any, error) {
		var in appFlags
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		c, err := identity.AppTemplate(in.Template, in.Name, in.Address)
		if err != nil {
			return nil, err
		}
		c.RedirectURIs = append(c.RedirectURIs, in.Redirects...)
		c.LogoutURIs = append(c.LogoutURIs, in.Back...)
		if in.Backchan != "" {
			c.BackchannelURI = in.Backchan
		}
		if in.JWKS != "" {
			c.Auth, c.JWKS = "private_key_jwt", json.RawMessage(in.JWKS)
		}
		c.CA = in.CA
		c.Groups, c.SkipConsent, c.Pairwise, c.IntrospectAll = in.Groups, in.Silent, in.Pairwise, in.Introspect
		x, secret, err := id().CreateApp(r.Context(), c, "")
		if err != nil {
			return nil, err
		}
		i := a.toAppInfo(x)
		i.Secret = secret
		return i, nil
	})
	handle("PATCH /v1/apps/{id}", func(r *http.Request) (any, error) {
		var in appChange
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		x, err := id().ChangeApp(r.Context(), r.PathValue("id"), func(x *identity.App) error {
			x.Groups = in.Groups
			if in.Backchan != nil {
				x.BackchannelURI = *in.Backchan
			}
			if in.CA != nil {
				x.CA = *in.CA
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return a.toAppInfo(x), nil
	})
	handle("POST /v1/apps/{id}/secrets", func(r *http.Request) (any, error) {
		secret, err := id().AddAppSecret(r.Context(), r.PathValue("id"))
		return appInfo{ID: r.PathValue("id"), Issuer: a.sharedURL(), Secret: secret}, err
	})
	handle("DELETE /v1/apps/{id}/secrets/{secret}", func(r *http.Request) (any, error) {
		return struct{}{}, id().DeleteAppSecret(r.Context(), r.PathValue("id"), r.PathValue("secret"))
	})
	handle("POST /v1/apps/{id}/disabled", func(r *http.Request) (any, error) {
		var in struct {
			Disabled bool `json:"disabled"`
		}
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		x, err := id().ChangeApp(r.Context(), r.PathValue("id"), func(x *identity.App) error { x.Disabled = in.Disabled; return nil })
		if err != nil {
			return nil, err
		}
		return a.toAppInfo(x), nil
	})
	handle("DELETE /v1/apps/{id}", func(r *http.Request) (any, error) {
		return struct{}{}, id().DeleteApp(r.Context(), r.PathValue("id"))
	})
	handle("GET /v1/keys", func(r *http.Request) (any, error) {
		list, err := id().SigningKeys(r.Context())
		out := make([]keyInfo, 0, len(list))
		for _, k := range list {
			out = append(out, keyInfo{k.ID, k.State, k.From})
		}
		return out, err
	})
	handle("POST /v1/keys", func(r *http.Request) (any, error) {
		return struct{}{}, id().RotateKey(r.Context(), r.URL.Query().Get("now") != "")
	})
}

// ask calls the appliance that runs.
func (c *cli) ask(ctx context.Context, method, path string, in, out any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	return cl.call(ctx, method, path, in, out)
}

// readCA has the certificate authority that a flag names.
func (f *appFlags) readCA() error {
	if f.CAFile == "" || f.CAFile == noValue {
		return nil
	}
	b, err := os.ReadFile(f.CAFile)
	if err != nil {
		return fmt.Errorf("the file with the certificate authority cannot be read: %w", err)
	}
	f.CA = string(b)
	return nil
}

// noValue is what is typed to take something away.
const noValue = "none"

func runAppChange(ctx context.Context, c *cli, args []string) error {
	if err := c.sso.readCA(); err != nil {
		return err
	}
	var in appChange
	switch {
	case c.sso.Everybody && len(c.sso.Groups) > 0:
		return errors.New("--everybody and --group exclude each other")
	case c.sso.Everybody:
		in.Groups = []string{}
	case len(c.sso.Groups) > 0:
		in.Groups = c.sso.Groups
	}
	switch c.sso.Backchan {
	case "":
	case noValue:
		in.Backchan = new("")
	default:
		in.Backchan = &c.sso.Backchan
	}
	if c.sso.CAFile != "" {
		in.CA = &c.sso.CA
	}
	if in.Groups == nil && in.Backchan == nil && in.CA == nil {
		return errors.New("say what is to be changed; holdfast help app change shows what can be")
	}
	var i appInfo
	if err := c.ask(ctx, "PATCH", "/v1/apps/"+url.PathEscape(args[0]), in, &i); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(i)
	}
	fmt.Fprintf(c.out, "%s was changed. It is for %s.\n", i.Name, i.whose())
	i.printLogout(c)
	return nil
}

// whose says who may use an application.
func (i *appInfo) whose() string {
	switch {
	case len(i.Groups) > 0:
		return strings.Join(i.Groups, ", ")
	case len(i.Gone) > 0:
		return "nobody: " + strings.Join(i.Gone, ", ") + " was removed"
	}
	return "everybody"
}

func (i *appInfo) printLogout(c *cli) {
	if i.Backchan == "" {
		return
	}
	by := "a certificate that this machine trusts"
	if i.OwnCA {
		by = "a certificate of the authority that you named"
	}
	fmt.Fprintf(c.out, "Logout:     %s is told when somebody signs out", i.Backchan)
	if strings.HasPrefix(i.Backchan, "https://") {
		fmt.Fprintf(c.out, ";\n            it needs %s", by)
	}
	fmt.Fprintln(c.out)
}

func runAppAdd(ctx context.Context, c *cli, args []string) error {
	c.sso.Name = args[0]
	if err := c.sso.readCA(); err != nil {
		return err
	}
	if c.sso.JWKSFile != "" {
		b, err := os.ReadFile(c.sso.JWKSFile)
		if err != nil {
			return err
		}
		if !json.Valid(b) {
			return fmt.Errorf("%s has no JSON; it must be a JSON Web Key Set with the application's public keys", c.sso.JWKSFile)
		}
		c.sso.JWKS = string(b)
	}
	var i appInfo
	if err := c.ask(ctx, "POST", "/v1/apps", c.sso, &i); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(i)
	}
	fmt.Fprintf(c.out, "%s may sign people in.\n\nIssuer:     %s\nDiscovery:  %s/.well-known/openid-configuration\nClient ID:  %s\n", i.Name, i.Issuer, i.Issuer, i.ID)
	if i.Secret != "" {
		fmt.Fprintf(c.out, "Secret:     %s\n            It is not shown again.\n", i.Secret)
	}
	fmt.Fprintf(c.out, "Redirects:  %s\n", strings.Join(i.Redirects, "\n            "))
	if len(i.Logouts) > 0 {
		fmt.Fprintf(c.out, "Signed out: %s\n", strings.Join(i.Logouts, "\n            "))
	}
	i.printLogout(c)
	return nil
}

func runAppList(ctx context.Context, c *cli, _ []string) error {
	var list []appInfo
	if err := c.ask(ctx, "GET", "/v1/apps", nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "No application signs people in here. holdfast app add NAME makes one.")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLIENT ID\tNAME\tTEMPLATE\tSTATE\tFOR\tSECRETS")
	for _, i := range list {
		state := "on"
		if i.Disabled {
			state = "off"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", i.ID, i.Name, i.Template, state, i.whose(), len(i.Secrets))
	}
	return w.Flush()
}

func runAppSecret(ctx context.Context, c *cli, args []string) error {
	path := "/v1/apps/" + url.PathEscape(args[0]) + "/secrets"
	var i appInfo
	if c.sso.Remove != "" {
		if err := c.ask(ctx, "DELETE", path+"/"+url.PathEscape(c.sso.Remove), nil, &struct{}{}); err != nil {
			return err
		}
		if c.json {
			return c.printJSON(map[string]string{"client_id": args[0], "removed": c.sso.Remove})
		}
		fmt.Fprintln(c.out, "The secret does not work any more.")
		return nil
	}
	if err := c.ask(ctx, "POST", path, nil, &i); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]string{"client_id": i.ID, "client_secret": i.Secret})
	}
	fmt.Fprintf(c.out, "Secret: %s\nIt is not shown again. The one before works until it is removed.\n", i.Secret)
	return nil
}

func runAppDisable(ctx context.Context, c *cli, args []string) error {
	var i appInfo
	if err := c.ask(ctx, "POST", "/v1/apps/"+url.PathEscape(args[0])+"/disabled", map[string]bool{"disabled": !c.undo}, &i); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(i)
	}
	if i.Disabled {
		fmt.Fprintf(c.out, "%s is off, and its sessions have ended. --undo switches it on.\n", i.Name)
	} else {
		fmt.Fprintf(c.out, "%s is on.\n", i.Name)
	}
	return nil
}

func runAppRemove(ctx context.Context, c *cli, args []string) error {
	if err := c.ask(ctx, "DELETE", "/v1/apps/"+url.PathEscape(args[0]), nil, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "The application was removed, and its sessions have ended.")
	return nil
}

func runKeysList(ctx context.Context, c *cli, _ []string) error {
	var list []keyInfo
	if err := c.ask(ctx, "GET", "/v1/keys", nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tSTATE\tSIGNS FROM")
	for _, k := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\n", k.ID, k.State, k.From.Local().Format("2006-01-02 15:04"))
	}
	return w.Flush()
}

func runKeysRotate(ctx context.Context, c *cli, _ []string) error {
	path := "/v1/keys"
	if c.sso.Now {
		path += "?now=1"
	}
	if err := c.ask(ctx, "POST", path, nil, &struct{}{}); err != nil {
		return err
	}
	if c.sso.Now {
		fmt.Fprintln(c.out, "A new key signs ID tokens now; the keys before it are gone.")
	} else {
		fmt.Fprintln(c.out, "The next key is published; it signs in a day.")
	}
	return nil
}
