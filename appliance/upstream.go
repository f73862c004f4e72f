package appliance

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/identity/saml"
	"holdfast/identity/upstream"
)

// This file has the other providers that sign people in here, at the command line.

type upstreamFlags struct {
	c      upstream.Config
	scopes []string
	groups []string
	stdin  bool
	caFile string
	people string
	saml   samlFlags
}

func (a *Appliance) upstreamControl(handle func(string, func(*http.Request) (any, error))) {
	ups := func() *upstream.Upstreams { return a.core.Load().identity.Upstreams() }
	handle("GET /v1/upstreams", func(r *http.Request) (any, error) {
		if r.URL.Query().Get("ask") != "" {
			ups().AskAll(r.Context(), askFor)
		}
		return ups().List(r.Context())
	})
	handle("PUT /v1/upstreams/{id}", func(r *http.Request) (any, error) {
		in, err := a.upstreamRequest(r)
		if err != nil {
			return nil, err
		}
		if err := ups().Set(r.Context(), r.PathValue("id"), in); err != nil {
			return nil, err
		}
		if in.SAML != nil {
			return a.samlAnswer(r.Context(), r.PathValue("id"))
		}
		return map[string]string{"redirect_uri": a.sharedURL() + "/upstream/" + r.PathValue("id") + "/callback"}, nil
	})
	a.samlControl(handle)
	handle("DELETE /v1/upstreams/{id}", func(r *http.Request) (any, error) {
		n, err := ups().Remove(r.Context(), r.PathValue("id"), cmp.Or(r.URL.Query().Get("people"), upstream.Keep))
		return map[string]int{"locked": n}, err
	})
	handle("POST /v1/upstreams/{id}/test", func(r *http.Request) (any, error) {
		t, err := ups().Test(r.Context(), r.PathValue("id"))
		return upstreamTest(t), err
	})
}

// askFor is how long providers have to answer whoever waits for the list of them.
const askFor = 5 * time.Second

// diagnoseUpstreams asks the providers that people sign in with.
func diagnoseUpstreams(ctx context.Context, c *controlClient) (out []finding) {
	var list []upstream.Provider
	if err := c.call(ctx, "GET", "/v1/upstreams?ask=1", nil, &list); err != nil {
		return []finding{{"providers", false, err.Error()}}
	}
	for _, p := range list {
		f := finding{Name: "provider " + p.ID, OK: p.Down == "", Detail: upstreamState(p)}
		if !f.OK {
			f.Detail += "; until it answers its people cannot sign in anew, those who are signed in go on. See whether it runs and can be reached from here: holdfast upstream test " + p.ID
		}
		out = append(out, f)
	}
	return out
}

// upstreamState says what is known of a provider.
func upstreamState(p upstream.Provider) string {
	state := "answers"
	switch {
	case p.Down != "":
		return "down: " + p.Down
	case p.Unheard != "":
		state = "not reached from here, which only browsers need"
	case p.Asked.IsZero(): // it was not asked yet
		state = "no trouble known"
	}
	if p.Until != nil {
		state += "; certificate until " + p.Until.Format(time.DateOnly)
	}
	return state
}

// upstreamTest is what a provider answered.
type upstreamTest struct {
	At      string `json:"authorization_endpoint"`
	SAML    bool   `json:"saml,omitempty"`
	Unheard string `json:"unheard,omitempty"`
}

// upstreamMessage says what a failed command about providers means.
func upstreamMessage(err error) string {
	for _, e := range []error{upstream.ErrNone, upstream.ErrID, upstream.ErrTooMany} {
		if errors.Is(err, e) {
			return e.Error()[len("upstream: "):]
		}
	}
	if errors.Is(err, saml.ErrMetadata) {
		return strings.TrimPrefix(err.Error(), "saml: ")
	}
	if errors.Is(err, upstream.ErrDown) {
		return "the provider gives no answer that can be used: " + err.Error()
	}
	return ""
}

func runUpstreamAdd(ctx context.Context, c *cli, args []string) error {
	in := c.upstream.c
	in.Scopes = c.upstream.scopes
	if in.Name == "" {
		in.Name = args[0]
	}
	for _, g := range c.upstream.groups {
		there, here := g, g
		if i := strings.LastIndexByte(g, '='); i >= 0 { // a group there may be a DN
			there, here = g[:i], g[i+1:]
		}
		if in.Groups == nil {
			in.Groups = map[string]string{}
		}
		in.Groups[there] = here
	}
	if c.upstream.caFile != "" {
		b, err := os.ReadFile(c.upstream.caFile)
		if err != nil {
			return fmt.Errorf("the file with the certificate authority cannot be read: %w", err)
		}
		in.CA = string(b)
	}
	if c.upstream.saml.asked() {
		return runSAMLAdd(ctx, c, args[0], in)
	}
	if c.upstream.stdin {
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 1<<16)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("the secret cannot be read from standard input: %w", err)
		}
		if in.ClientSecret = strings.TrimSpace(line); in.ClientSecret == "" {
			return errors.New("no secret came on standard input; its first line is the secret")
		}
	}
	var out struct {
		Redirect string `json:"redirect_uri"`
	}
	if err := c.ask(ctx, "PUT", "/v1/upstreams/"+args[0], in, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "The sign-in page has a button for %s. There, register the redirect address\n  %s\n", in.Name, out.Redirect)
	return nil
}

func runUpstreamList(ctx context.Context, c *cli, _ []string) error {
	var list []upstream.Provider
	if err := c.ask(ctx, "GET", "/v1/upstreams?ask=1", nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "No other provider signs people in here. holdfast upstream add ID adds one.")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tISSUER\tPEOPLE\tSTATE")
	for _, p := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", p.ID, p.Config.Name, p.Config.Issuer, p.People, upstreamState(p))
	}
	return w.Flush()
}

func runUpstreamTest(ctx context.Context, c *cli, args []string) error {
	var out upstreamTest
	if err := c.ask(ctx, "POST", "/v1/upstreams/"+args[0]+"/test", struct{}{}, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	if out.Unheard != "" {
		fmt.Fprintf(c.out, "Its metadata can be used; people sign in at %s.\nFrom here that cannot be reached (%s). Only their browsers need to.\n", out.At, out.Unheard)
		return nil
	}
	fmt.Fprintf(c.out, "It answers; people sign in at %s.\n", out.At)
	return nil
}

func runUpstreamRemove(ctx context.Context, c *cli, args []string) error {
	var out struct {
		Locked int `json:"locked"`
	}
	if err := c.ask(ctx, "DELETE", "/v1/upstreams/"+args[0]+"?people="+url.QueryEscape(c.upstream.people), nil, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprint(c.out, "It signs nobody in any more, and the groups that it gave are taken back. ")
	switch c.upstream.people {
	case upstream.Lock:
		fmt.Fprintf(c.out, "%d people who had no other way in are locked.\n", out.Locked)
	case upstream.Unlink:
		fmt.Fprintln(c.out, "Its people keep their accounts, which nobody of it gets by signing in there again; holdfast user password gives them a password.")
	default:
		fmt.Fprintln(c.out, "Its people keep their accounts, and sign in to them should it come back; holdfast user password gives them a password.")
	}
	return nil
}
