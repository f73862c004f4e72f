package appliance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"holdfast/appliance/settings"
	"holdfast/homeserver/media"
	"holdfast/homeserver/media/preview"
	"holdfast/web"
)

// previewRules are what an administrator decided about previews of links. They are
// kept in the form in which they are typed; lists have commas between their entries.
type previewRules struct {
	Enabled string `json:"enabled"` // "on" or "off"
	Allow   string `json:"allow"`   // hosts, or "all"
	Deny    string `json:"deny"`    // hosts, or "none"
	Private string `json:"private"` // hosts, or "none"
	Ports   string `json:"ports"`   // further ports, or "none"
	Space   string `json:"space"`   // size
}

// maxPreviewHosts is how many hosts a list has at most.
const maxPreviewHosts = 1000

func (p *previewRules) fields() []fileRule {
	return []fileRule{
		{&p.Enabled, settings.Previews, "off", "enabled"},
		{&p.Allow, settings.PreviewsAllow, "all", "allow"},
		{&p.Deny, settings.PreviewsDeny, "none", "deny"},
		{&p.Private, settings.PreviewsPrivate, "none", "private"},
		{&p.Ports, settings.PreviewsPorts, "none", "ports"},
		{&p.Space, settings.PreviewsSpace, "1G", "space"},
	}
}

// previewRules are the rules that hold.
func (a *Appliance) previewRules() (p previewRules) {
	for _, r := range p.fields() {
		if *r.value = a.settings.Get(r.key); *r.value == "" {
			*r.value = r.standard
		}
	}
	return p
}

// setPreviewRules changes the rules that are not empty.
func (a *Appliance) setPreviewRules(ctx context.Context, change previewRules) error {
	all := a.previewRules()
	values := map[string]string{}
	to := all.fields()
	for i, r := range change.fields() {
		if *r.value == "" {
			continue
		}
		v := *r.value
		switch r.option {
		case "allow", "deny", "private", "ports":
			v = strings.Join(entries(v), ",")
		}
		if *to[i].value = v; v == r.standard {
			v = ""
		}
		values[r.key] = v
	}
	if _, err := all.parse(); err != nil {
		return err
	}
	if err := a.settings.Put(ctx, values); err != nil {
		return err
	}
	return a.core.Load().hs.Files.PreviewsChanged(ctx)
}

// entries are the entries of a list, which commas or white space part.
func entries(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' })
}

// parse makes of the rules what the homeserver is told.
func (p previewRules) parse() (set media.Previews, err error) {
	var errs []error
	hosts := func(option, s, none string) (h preview.Hosts) {
		if s == none {
			return h
		}
		list := entries(s)
		if len(list) == 0 || len(list) > maxPreviewHosts {
			errs = append(errs, fmt.Errorf("--%s has %d hosts; give 1 to %d, with commas between them, or %s", option, len(list), maxPreviewHosts, none))
			return h
		}
		h, err := preview.ParseHosts(list)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", option, err))
		}
		return h
	}
	switch p.Enabled {
	case "on":
		set.On = true
	case "off":
	default:
		errs = append(errs, fmt.Errorf("--enabled %q is neither on nor off", p.Enabled))
	}
	set.Rules.Allow = hosts("allow", p.Allow, "all")
	set.Rules.Deny = hosts("deny", p.Deny, "none")
	set.Rules.Private = hosts("private", p.Private, "none")
	if p.Ports != "none" {
		ports := entries(p.Ports)
		for _, s := range ports {
			n, err := strconv.ParseUint(s, 10, 16)
			if err != nil || n == 0 {
				errs = append(errs, fmt.Errorf("--ports %q is no port; write for example 8080,8443, or none", s))
			}
			set.Rules.Ports = append(set.Rules.Ports, int(n))
		}
		if len(ports) == 0 || len(ports) > 100 {
			errs = append(errs, fmt.Errorf("--ports has %d ports; give 1 to 100, with commas between them, or none", len(ports)))
		}
	}
	if set.Space, err = parseSize(p.Space); err != nil {
		errs = append(errs, fmt.Errorf("--space %q is no size; write for example 500M or 2G", p.Space))
	}
	return set, errors.Join(errs...)
}

// parsedPreviews are rules and what was made of them.
type parsedPreviews struct {
	rules previewRules
	set   media.Previews
}

// previews is what the homeserver is told about previews. It is asked often, so what
// was parsed is kept while the rules are the same.
func (a *Appliance) previews() media.Previews {
	rules := a.previewRules()
	if p := a.previewsParsed.Load(); p != nil && p.rules == rules {
		return p.set
	}
	set, err := rules.parse()
	if err != nil { // an older version wrote them: nothing is fetched
		a.log.Error("the rules for previews of links cannot be read, so there are none; set them anew with holdfast previews set", "err", err)
		set = media.Previews{}
	}
	a.previewsParsed.Store(&parsedPreviews{rules, set})
	return set
}

// previewsControl are the operations of the local socket about previews.
func (a *Appliance) previewsControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/previews", func(*http.Request) (any, error) { return a.previewRules(), nil })
	handle("PUT /v1/previews", func(r *http.Request) (any, error) {
		var in previewRules
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		err := a.setPreviewRules(r.Context(), in)
		return a.previewRules(), err
	})
	handle("GET /v1/previews/test", func(r *http.Request) (any, error) {
		return a.core.Load().hs.Files.TryPreview(r.Context(), r.URL.Query().Get("url"))
	})
}

// LinkPreviews and SetLinkPreviews serve the console.

func (a console) LinkPreviews(context.Context) (web.LinkPreviews, error) {
	p := a.previewRules()
	list := func(s, none string) []string {
		if s == none {
			return []string{}
		}
		return entries(s)
	}
	return web.LinkPreviews{Enabled: p.Enabled == "on", Allow: list(p.Allow, "all"), Deny: list(p.Deny, "none"), Private: list(p.Private, "none")}, nil
}

func (a console) SetLinkPreviews(ctx context.Context, p web.LinkPreviews) error {
	join := func(list []string, none string) string {
		if len(list) == 0 {
			return none
		}
		return strings.Join(list, ",")
	}
	change := previewRules{Enabled: "off", Allow: join(p.Allow, "all"), Deny: join(p.Deny, "none"), Private: join(p.Private, "none")}
	if p.Enabled {
		change.Enabled = "on"
	}
	for field, list := range map[string][]string{"allow": p.Allow, "deny": p.Deny, "private": p.Private} {
		if len(list) > maxPreviewHosts {
			return &web.Error{Code: "too_many", Field: field, Message: fmt.Sprintf("A list has at most %d hosts.", maxPreviewHosts)}
		}
		if _, err := preview.ParseHosts(list); err != nil {
			return &web.Error{Code: "bad_host", Field: field, Message: strings.ToUpper(err.Error()[:1]) + err.Error()[1:] + "."}
		}
	}
	return a.setPreviewRules(ctx, change)
}

func runPreviewsSet(ctx context.Context, c *cli, _ []string) error {
	if c.previews == (previewRules{}) {
		return &usageError{"say what to change, such as --enabled on"}
	}
	return c.previewRules(ctx, "PUT", c.previews)
}

func runPreviewsShow(ctx context.Context, c *cli, _ []string) error {
	return c.previewRules(ctx, "GET", nil)
}

func (c *cli) previewRules(ctx context.Context, method string, in any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var p previewRules
	if err := cl.call(ctx, method, "/v1/previews", in, &p); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(p)
	}
	comma := func(s string) string { return strings.Join(entries(s), ", ") }
	fmt.Fprintf(c.out, "Previews of links:       %s\nOf the hosts:            %s\nNever of:                %s\nInside your network:     %s\nPorts:                   80, 443", p.Enabled, comma(p.Allow), comma(p.Deny), comma(p.Private))
	if p.Ports != "none" {
		fmt.Fprint(c.out, ", ", comma(p.Ports))
	}
	fmt.Fprintf(c.out, "\nSpace for pictures:      %s\n", p.Space)
	return nil
}

func runPreviewsTest(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var found map[string]any
	if err := cl.call(ctx, "GET", "/v1/previews/test?url="+url.QueryEscape(args[0]), nil, &found); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(found)
	}
	if len(found) == 0 {
		fmt.Fprintln(c.out, "The page was fetched, and there is nothing in it for a preview.")
	}
	for _, k := range slices.Sorted(maps.Keys(found)) {
		fmt.Fprintf(c.out, "%-20s %v\n", k, found[k])
	}
	return nil
}
