package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/identity/saml"
	"holdfast/identity/upstream"
	"holdfast/web"
)

// This file has what is particular to SAML providers, at the command line and in the console.

// maxSAMLMetadata bounds what is read of a provider's metadata.
const maxSAMLMetadata = 1 << 20

type samlFlags struct{ file, url, entity string }

func (f samlFlags) asked() bool { return f.file != "" || f.url != "" }

func samlFlagsOf(f *flag.FlagSet, c *cli) {
	s := &c.upstream.saml
	f.StringVar(&s.file, "saml", "", "a `file` with the metadata of a SAML 2.0 provider; - is standard input")
	f.StringVar(&s.url, "saml-url", "", "the `address` of the metadata of a SAML 2.0 provider, which are fetched once, now")
	f.StringVar(&s.entity, "entity-id", "", "which provider it is, where the SAML metadata have several (`ID`)")
	f.StringVar(&c.upstream.c.SubjectClaim, "subject-claim", "", "the SAML `attribute` that names a person for ever (default: the persistent name ID)")
}

// upstreamRequest is a provider as the command line sends it.
type upstreamRequest struct {
	upstream.Config
	Metadata string `json:"metadata,omitempty"` // of a SAML provider
	Entity   string `json:"entity_id,omitempty"`
}

// upstreamRequest reads a provider. Where it speaks SAML its metadata are all that is read.
func (a *Appliance) upstreamRequest(r *http.Request) (upstream.Config, error) {
	var in upstreamRequest
	// JSON writes some of the signs of XML in six.
	if err := json.NewDecoder(io.LimitReader(r.Body, 8*maxSAMLMetadata)).Decode(&in); err != nil {
		return in.Config, err
	}
	in.SAML = nil // nobody but us makes the key
	if in.Metadata == "" {
		return in.Config, nil
	}
	p, err := saml.ParseMetadata([]byte(in.Metadata), in.Entity, time.Now())
	in.SAML = &saml.Settings{IdP: p, Base: a.sharedURL()}
	return in.Config, err
}

// samlInfo is what a SAML provider has to know, and what is known of it.
type samlInfo struct {
	upstream.Ours
	Issuer string    `json:"issuer"`
	Until  time.Time `json:"certificate_until"`
	SLOIdP bool      `json:"single_logout"` // the provider offers it
}

func (a *Appliance) samlAnswer(ctx context.Context, id string) (any, error) {
	all, err := a.core.Load().identity.Upstreams().List(ctx)
	for _, p := range all {
		if p.ID == id && p.SAML != nil {
			s := p.Config.SAML
			return samlInfo{*p.SAML, p.Config.Issuer, *p.Until, s.SingleLogout()}, nil
		}
	}
	if err == nil {
		err = upstream.ErrNone
	}
	return nil, err
}

// toSAML is what a provider and the appliance know of each other, for the console.
func (a console) toSAML(p upstream.Provider) *web.ProviderSAML {
	s := p.Config.SAML
	out := &web.ProviderSAML{Metadata: p.SAML.Metadata, ACS: p.SAML.ACS, SLO: p.SAML.SLO, Certificate: p.SAML.Certificate,
		SignIn: cmp.Or(s.SignInRedirect, s.SignInPost), Fingerprints: p.SAML.Fingerprints, Until: *p.Until, SingleLogout: s.SingleLogout()}
	if s.Base != a.sharedURL() {
		out.Moved = s.Base
	}
	return out
}

// samlForm is a provider as its metadata describe it, which a form gives or points to, or,
// where it does neither, as it was. Errors: *web.Error, upstream.ErrSettings, saml.ErrMetadata.
func (a console) samlForm(ctx context.Context, f web.ProviderForm, was *saml.Settings) (*saml.Settings, error) {
	raw := []byte(f.Metadata)
	given, at := strings.TrimSpace(f.Metadata) != "", strings.TrimSpace(f.MetadataURL)
	switch {
	case given && at != "":
		return nil, &web.Error{Code: "twice", Field: "metadata_url", Message: "Give the metadata themselves or their address, not both."}
	case given:
	case at != "":
		var err error
		if raw, err = a.id().Upstreams().FetchMetadata(ctx, at); err != nil {
			return nil, err
		}
	case was != nil:
		return was, nil
	default:
		return nil, &web.Error{Code: "no_metadata", Field: "metadata", Message: "Give the provider's metadata: the file, or its address."}
	}
	p, err := saml.ParseMetadata(raw, strings.TrimSpace(f.EntityID), time.Now())
	return &saml.Settings{IdP: p, Base: a.sharedURL()}, err
}

func (a *Appliance) samlControl(handle func(string, func(*http.Request) (any, error))) {
	handle("GET /v1/upstreams/{id}/metadata", func(r *http.Request) (any, error) {
		raw, err := a.core.Load().identity.Upstreams().Metadata(r.PathValue("id"))
		return map[string]string{"metadata": string(raw)}, err
	})
}

// samlProblems says which certificates of SAML providers end soon, and which providers
// still know an address that the appliance no longer has.
func (a *Appliance) samlProblems() (out []string) {
	c := a.core.Load()
	if c == nil {
		return nil
	}
	ups := c.identity.Upstreams()
	ending := ups.Expiring()
	for _, id := range slices.Sorted(maps.Keys(ending)) {
		what := "ends on"
		if until := ending[id]; until.Before(time.Now()) {
			what = "ended on"
		}
		out = append(out, fmt.Sprintf("the certificate of the SAML provider %s %s %s; give its new metadata to holdfast upstream add %s --saml FILE", id, what, ending[id].Format(time.DateOnly), id))
	}
	for _, b := range ups.Buttons() {
		if base := ups.Base(b.ID); base != "" && base != a.sharedURL() {
			out = append(out, fmt.Sprintf("the SAML provider %s knows the appliance as %s, which is %s now; add it anew and load the new metadata there", b.ID, base, a.sharedURL()))
		}
	}
	return out
}

func runSAMLAdd(ctx context.Context, c *cli, id string, in upstream.Config) error {
	raw, err := c.upstream.saml.read(ctx)
	if err != nil {
		return err
	}
	var out samlInfo
	if err := c.ask(ctx, "PUT", "/v1/upstreams/"+id, upstreamRequest{in, string(raw), c.upstream.saml.entity}, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "The sign-in page has a button for %s, which is %s. Its certificates (SHA-256), to be compared there:\n", in.Name, out.Issuer)
	for _, f := range out.Fingerprints {
		fmt.Fprintf(c.out, "  %s\n", f)
	}
	fmt.Fprintf(c.out, "The last of them ends on %s. There, load the metadata that holdfast upstream metadata %s prints, or set\n  entity ID   %s\n  answers to  %s (POST)\n  sign-outs   %s\n",
		out.Until.Format(time.DateOnly), id, out.EntityID, out.ACS, out.SLO)
	if !out.SLOIdP {
		fmt.Fprintln(c.out, "It offers no single logout: signing out here does not sign out there.")
	}
	return nil
}

// read gets the metadata, from a file or an address.
func (f samlFlags) read(ctx context.Context) ([]byte, error) {
	if f.file != "" && f.url != "" {
		return nil, &usageError{"give the metadata by --saml or by --saml-url, not by both"}
	}
	var from io.Reader
	switch {
	case f.file == "-":
		from = os.Stdin
	case f.file != "":
		file, err := os.Open(f.file)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		from = file
	default:
		u, err := url.Parse(f.url)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return nil, fmt.Errorf("%q is not the address of a file; it begins with https://", f.url)
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, fmt.Errorf("the metadata cannot be fetched; give them as a file with --saml: %w", err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("the metadata cannot be fetched: the answer is %s", resp.Status)
		}
		from = resp.Body
	}
	raw, err := io.ReadAll(io.LimitReader(from, maxSAMLMetadata+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the metadata cannot be read: %w", err)
	case len(raw) > maxSAMLMetadata:
		return nil, errors.New("these metadata are longer than 1 MiB; take the provider's own, not those of a federation")
	case strings.TrimSpace(string(raw)) == "":
		return nil, errors.New("there are no metadata in it")
	}
	return raw, nil
}

func runUpstreamMetadata(ctx context.Context, c *cli, args []string) error {
	var out struct {
		Metadata string `json:"metadata"`
	}
	if err := c.ask(ctx, "GET", "/v1/upstreams/"+args[0]+"/metadata", nil, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintln(c.out, out.Metadata)
	return nil
}
