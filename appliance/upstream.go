package appliance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"

	"holdfast/identity/upstream"
)

// This file has the other OpenID providers that sign people in here, at the command line.

type upstreamFlags struct {
	c      upstream.Config
	scopes []string
	groups []string
	stdin  bool
}

func (a *Appliance) upstreamControl(handle func(string, func(*http.Request) (any, error))) {
	ups := func() *upstream.Upstreams { return a.core.Load().identity.Upstreams() }
	handle("GET /v1/upstreams", func(r *http.Request) (any, error) { return ups().List(r.Context()) })
	handle("PUT /v1/upstreams/{id}", func(r *http.Request) (any, error) {
		var in upstream.Config
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		if err := ups().Set(r.Context(), r.PathValue("id"), in); err != nil {
			return nil, err
		}
		return map[string]string{"redirect_uri": a.sharedURL() + "/upstream/" + r.PathValue("id") + "/callback"}, nil
	})
	handle("DELETE /v1/upstreams/{id}", func(r *http.Request) (any, error) {
		return struct{}{}, ups().Remove(r.Context(), r.PathValue("id"))
	})
	handle("POST /v1/upstreams/{id}/test", func(r *http.Request) (any, error) {
		at, err := ups().Test(r.Context(), r.PathValue("id"))
		return map[string]string{"authorization_endpoint": at}, err
	})
}

// upstreamMessage says what a failed command about providers means.
func upstreamMessage(err error) string {
	for _, e := range []error{upstream.ErrNone, upstream.ErrID, upstream.ErrTooMany} {
		if errors.Is(err, e) {
			return e.Error()[len("upstream: "):]
		}
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
		there, here, two := strings.Cut(g, "=")
		if !two {
			here = there
		}
		if in.Groups == nil {
			in.Groups = map[string]string{}
		}
		in.Groups[there] = here
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
	if err := c.ask(ctx, "GET", "/v1/upstreams", nil, &list); err != nil {
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
		state := "no trouble known" // it may not have been asked yet
		if p.Down != "" {
			state = "down: " + p.Down
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", p.ID, p.Config.Name, p.Config.Issuer, p.People, state)
	}
	return w.Flush()
}

func runUpstreamTest(ctx context.Context, c *cli, args []string) error {
	var out struct {
		At string `json:"authorization_endpoint"`
	}
	if err := c.ask(ctx, "POST", "/v1/upstreams/"+args[0]+"/test", struct{}{}, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "It answers; people sign in at %s.\n", out.At)
	return nil
}

func runUpstreamRemove(ctx context.Context, c *cli, args []string) error {
	if err := c.ask(ctx, "DELETE", "/v1/upstreams/"+args[0], nil, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "It signs nobody in any more. Its people keep their accounts; holdfast user password gives them one.")
	return nil
}
