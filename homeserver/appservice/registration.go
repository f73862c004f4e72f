// Package appservice lets application services (bridges, bots) take part: they
// are registered by files, authenticate with their own token, act as the users
// of their namespaces, and get the events that interest them pushed.
//
// Invariants: a service only acts as users of its own namespaces; events reach
// it in the order of their positions, each in at least one transaction, and a
// transaction that was not answered 200 is sent again, under its number, before
// any later one; a service that is down costs the sending of messages nothing.
package appservice

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"gopkg.in/yaml.v3"
)

// Namespace is a set of names that a service claims.
type Namespace struct {
	Regex     string `yaml:"regex"`
	Exclusive bool   `yaml:"exclusive"`

	re *regexp.Regexp
}

func (n Namespace) matches(s string) bool { return n.re.MatchString(s) }

// Registration is one application service. Spec: as#registration
type Registration struct {
	ID              string `yaml:"id"`
	URL             string `yaml:"url"` // "": nothing is pushed
	ASToken         string `yaml:"as_token"`
	HSToken         string `yaml:"hs_token"`
	SenderLocalpart string `yaml:"sender_localpart"`
	Namespaces      struct {
		Users   []Namespace `yaml:"users"`
		Aliases []Namespace `yaml:"aliases"`
		Rooms   []Namespace `yaml:"rooms"`
	} `yaml:"namespaces"`
	RateLimited *bool    `yaml:"rate_limited"`
	Protocols   []string `yaml:"protocols"`

	File string `yaml:"-"` // where it was read
}

// maxRegistration bounds a registration file, in bytes.
const maxRegistration = 256 << 10

// Load reads every *.yaml and *.yml file of a folder, in the order of their
// names. The error names the file and what to mend in it.
func Load(dir string) ([]Registration, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("appservice.dir: %w", err)
	}
	var out []Registration
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.IsDir() || (ext != ".yaml" && ext != ".yml") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Size() > maxRegistration {
			return nil, fmt.Errorf("%s: larger than %d bytes: it is no registration of an application service", path, maxRegistration)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		r, err := Parse(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		r.File = path
		out = append(out, r)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].File < out[j].File })
	for i, a := range out {
		for _, b := range out[:i] {
			switch {
			case a.ID == b.ID:
				return nil, fmt.Errorf("%s: the id %q is also that of %s; give each its own", a.File, a.ID, b.File)
			case a.ASToken == b.ASToken:
				return nil, fmt.Errorf("%s: its as_token is also that of %s; give each its own", a.File, b.File)
			case a.SenderLocalpart == b.SenderLocalpart:
				return nil, fmt.Errorf("%s: the sender_localpart %q is also that of %s; give each its own", a.File, a.SenderLocalpart, b.File)
			}
		}
	}
	return out, nil
}

// Parse reads one registration.
func Parse(b []byte) (Registration, error) {
	var r Registration
	if err := yaml.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("not a registration: %w", err)
	}
	for _, f := range []struct{ name, value string }{
		{"id", r.ID}, {"as_token", r.ASToken}, {"hs_token", r.HSToken}, {"sender_localpart", r.SenderLocalpart},
	} {
		if f.value == "" {
			return r, fmt.Errorf("the key %q is missing", f.name)
		}
	}
	if r.ASToken == r.HSToken {
		return r, errors.New("as_token and hs_token must differ")
	}
	if strings.ContainsAny(r.SenderLocalpart, "@:") {
		return r, errors.New("sender_localpart is the part of the user ID between @ and the colon")
	}
	if r.URL != "" && r.URL != "null" {
		u, err := url.Parse(r.URL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return r, fmt.Errorf("url %q is not an http or https address", r.URL)
		}
		r.URL = strings.TrimSuffix(r.URL, "/")
	} else {
		r.URL = ""
	}
	for what, list := range map[string][]Namespace{"users": r.Namespaces.Users, "aliases": r.Namespaces.Aliases, "rooms": r.Namespaces.Rooms} {
		for i := range list {
			re, err := regexp.Compile(`\A(?:` + list[i].Regex + `)`)
			if err != nil {
				return r, fmt.Errorf("namespaces.%s: the regex %q: %w", what, list[i].Regex, err)
			}
			list[i].re = re
		}
	}
	return r, nil
}
