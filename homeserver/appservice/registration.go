package appservice

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"gopkg.in/yaml.v3"

	"holdfast/homeserver/notices"
)

// Namespace is a set of names that a service claims.
type Namespace struct {
	Regex     string
	Exclusive bool

	re *regexp.Regexp
}

func (n Namespace) matches(s string) bool { return n.re.MatchString(s) }

// Namespaces are what a service claims. Spec: as#registration
type Namespaces struct{ Users, Aliases, Rooms []Namespace }

// Registration is one application service. Spec: as#registration
type Registration struct {
	ID              string
	URL             string // without a slash at its end; "": nothing is pushed
	ASToken         string // it proves by this that it is the service
	HSToken         string // we prove by this that we are the homeserver
	SenderLocalpart string
	Namespaces      Namespaces
	RateLimited     bool // whether requests for others than its sender are limited
	Protocols       []string
	Ephemeral       bool // typing, receipts, presence and to-device messages are pushed
	Encryption      bool // device lists and key counts too (MSC3202)

	Source string // the file it was read from; "": the command line registered it
}

// Bounds of a registration.
const (
	maxRegistration = 256 << 10 // bytes
	maxNamespaces   = 1000      // in each list
	maxRegex        = 4 << 10   // bytes
	maxProtocols    = 100
	maxText         = 255 // bytes of an ID, a token, a protocol
)

// Error says where a registration is wrong.
type Error struct {
	File string // "": not known yet
	Line int    // 0: the whole
	Msg  string
}

func (e *Error) Error() string {
	at := e.File
	switch {
	case e.Line > 0 && at != "":
		at = fmt.Sprintf("%s:%d", at, e.Line)
	case e.Line > 0:
		at = fmt.Sprintf("line %d", e.Line)
	}
	if at == "" {
		return e.Msg
	}
	return at + ": " + e.Msg
}

// Load reads every *.yaml and *.yml file of a folder, in the order of their
// names. Errors: *Error, which names the file, the line and what to mend.
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
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("appservice.dir: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(f, maxRegistration+1))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("appservice.dir: %w", err)
		}
		r, err := Parse(b)
		var wrong *Error
		if errors.As(err, &wrong) {
			wrong.File = path
		}
		if err != nil {
			return nil, err
		}
		r.Source = path
		out = append(out, r)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Source < out[j].Source })
	for i, r := range out {
		if err := conflict(out[:i], r); err != nil {
			return nil, &Error{File: r.Source, Msg: err.Error()}
		}
	}
	return out, nil
}

// conflict says what a registration has in common with another that each must
// have to itself, or nil.
func conflict(others []Registration, r Registration) error {
	for _, o := range others {
		where := o.Source
		if where == "" {
			where = "the service " + o.ID
		}
		switch {
		case r.ID == o.ID:
			return fmt.Errorf("the id %q is also that of %s; give each its own", r.ID, where)
		case r.ASToken == o.ASToken:
			return fmt.Errorf("its as_token is also that of %s; give each its own", where)
		case r.SenderLocalpart == o.SenderLocalpart:
			return fmt.Errorf("the sender_localpart %q is also that of %s; give each its own", r.SenderLocalpart, where)
		}
	}
	return nil
}

// Parse reads one registration. Errors: *Error with the line.
func Parse(b []byte) (Registration, error) {
	r := Registration{RateLimited: true}
	if len(b) > maxRegistration {
		return r, &Error{Msg: fmt.Sprintf("larger than %d bytes: it is no registration of an application service", maxRegistration)}
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return r, &Error{Msg: "the file is empty"}
	case err != nil:
		return r, syntax(err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		if err != nil {
			return r, syntax(err)
		}
		return r, &Error{Line: more.Line, Msg: "a second document begins here: put each service into its own file"}
	}
	m, err := fields(&doc, top, "id", "url", "as_token", "hs_token", "sender_localpart", "namespaces",
		"rate_limited", "protocols", "receive_ephemeral", "push_ephemeral", "ip_range_whitelist")
	if err != nil {
		return r, err
	}
	for _, key := range []string{"id", "url", "as_token", "hs_token", "sender_localpart", "namespaces"} {
		if m[key] != nil {
			continue
		}
		hint := ""
		if key == "url" {
			hint = "; write url: null if nothing is to be pushed to the service"
		}
		return r, &Error{Msg: fmt.Sprintf("the key %q is missing%s", key, hint)}
	}
	for key, into := range map[string]*string{"id": &r.ID, "as_token": &r.ASToken, "hs_token": &r.HSToken, "sender_localpart": &r.SenderLocalpart} {
		if *into, err = text(m[key], key, maxText); err != nil {
			return r, err
		}
	}
	wrong := func(key, format string, args ...any) (Registration, error) {
		return r, &Error{Line: m[key].Line, Msg: key + ": " + fmt.Sprintf(format, args...)}
	}
	for _, key := range []string{"as_token", "hs_token"} {
		// They go into a header.
		if strings.ContainsFunc(m[key].Value, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return wrong(key, "a token has letters, digits and signs without blanks only")
		}
	}
	if r.ASToken == r.HSToken {
		return wrong("hs_token", "it must differ from the as_token: who knows one must not know the other")
	}
	if strings.ContainsAny(r.SenderLocalpart, "@: ") {
		return wrong("sender_localpart", "it is the part of the user ID between @ and the colon, such as ircbot")
	}
	if r.SenderLocalpart == notices.Localpart {
		return wrong("sender_localpart", "this name is the server's own; take another, such as ircbot")
	}
	if r.URL, err = address(m["url"]); err != nil {
		return r, err
	}
	for key, into := range map[string]*bool{"rate_limited": &r.RateLimited, "receive_ephemeral": &r.Ephemeral, "push_ephemeral": &r.Ephemeral,
		"de.sorunome.msc2409.push_ephemeral": &r.Ephemeral, "org.matrix.msc3202": &r.Encryption} {
		if m[key] == nil || m[key].Tag == "!!null" {
			continue
		}
		var on bool
		if m[key].Kind != yaml.ScalarNode || m[key].Decode(&on) != nil {
			return wrong(key, "it is true or false")
		}
		if into == &r.RateLimited {
			r.RateLimited = on
		} else {
			*into = *into || on
		}
	}
	if n := m["protocols"]; n != nil && n.Tag != "!!null" {
		if n.Kind != yaml.SequenceNode || len(n.Content) > maxProtocols {
			return wrong("protocols", "it is a list of at most %d names, such as [irc]", maxProtocols)
		}
		for _, p := range n.Content {
			name, err := text(p, "protocols", maxText)
			if err != nil {
				return r, err
			}
			r.Protocols = append(r.Protocols, name)
		}
	}
	spaces, err := fields(m["namespaces"], "namespaces", "users", "aliases", "rooms")
	if err != nil {
		return r, err
	}
	for key, into := range map[string]*[]Namespace{"users": &r.Namespaces.Users, "aliases": &r.Namespaces.Aliases, "rooms": &r.Namespaces.Rooms} {
		if *into, err = namespaces(spaces[key], "namespaces."+key); err != nil {
			return r, err
		}
	}
	return r, nil
}

// top is what the whole file is called in errors.
const top = "the registration"

var lineOf = regexp.MustCompile(`line (\d+): `)

func syntax(err error) error {
	e := &Error{Line: 1, Msg: "this is not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := lineOf.FindStringSubmatch(err.Error()); m != nil {
		fmt.Sscan(m[1], &e.Line)
		e.Msg = strings.Replace(e.Msg, m[0], "", 1)
	}
	return e
}

// fields are the values of a mapping by their keys. Keys with a dot belong to some
// extension and are let through, and so is what a service keeps at the top of its file
// for itself; one that is almost a known one is a mistake.
func fields(n *yaml.Node, what string, known ...string) (map[string]*yaml.Node, error) {
	if n.Kind == yaml.DocumentNode {
		n = n.Content[0]
	}
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		return nil, &Error{Line: n.Line, Msg: what + " must be a list of keys with their values, such as id: irc"}
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if out[key.Value] != nil {
			return nil, &Error{Line: key.Line, Msg: fmt.Sprintf("the key %q is there twice", key.Value)}
		}
		ok := strings.Contains(key.Value, ".")
		for _, k := range known {
			ok = ok || k == key.Value
		}
		if !ok {
			hint, best := "it has "+strings.Join(known, ", "), nearest(key.Value, known)
			if best != "" {
				hint = "did you mean " + best + "?"
			} else if what == top {
				continue
			}
			return nil, &Error{Line: key.Line, Msg: fmt.Sprintf("%s has no key %.60q; %s", what, key.Value, hint)}
		}
		out[key.Value] = resolve(n.Content[i+1])
	}
	return out, nil
}

// resolve follows an alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// text is a string that is not empty.
func text(n *yaml.Node, key string, maxBytes int) (string, error) {
	n = resolve(n)
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "":
		return "", &Error{Line: n.Line, Msg: key + ": a text is wanted here"}
	case n.Tag != "!!str" && strings.HasSuffix(key, "_token"): // a secret
		return "", &Error{Line: n.Line, Msg: key + ": a text is wanted here; put it into quotes"}
	case n.Tag != "!!str":
		return "", &Error{Line: n.Line, Msg: fmt.Sprintf("%s: a text is wanted here; put it into quotes: %q", key, n.Value)}
	case len(n.Value) > maxBytes:
		return "", &Error{Line: n.Line, Msg: fmt.Sprintf("%s: it has more than %d bytes", key, maxBytes)}
	}
	return n.Value, nil
}

func address(n *yaml.Node) (string, error) {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!null" || n.Value == "") {
		return "", nil
	}
	s, err := text(n, "url", 2000)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", &Error{Line: n.Line, Msg: fmt.Sprintf("url: %q is not an address such as http://127.0.0.1:29300", s)}
	}
	return strings.TrimRight(s, "/"), nil
}

// namespaces compiles a list of expressions. They match from the beginning of a
// name and need not reach its end, as bridges have come to expect.
func namespaces(n *yaml.Node, what string) ([]Namespace, error) {
	if n == nil || n.Tag == "!!null" {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, &Error{Line: n.Line, Msg: what + ` must be a list of {exclusive: true, regex: "..."}`}
	}
	if len(n.Content) > maxNamespaces {
		return nil, &Error{Line: n.Line, Msg: fmt.Sprintf("%s has more than %d entries", what, maxNamespaces)}
	}
	var out []Namespace
	for _, item := range n.Content {
		m, err := fields(item, what, "regex", "exclusive", "group_id")
		if err != nil {
			return nil, err
		}
		if m["regex"] == nil || m["exclusive"] == nil {
			return nil, &Error{Line: item.Line, Msg: what + ": each entry has a regex, and says with exclusive whether it is the service's alone"}
		}
		var ns Namespace
		if ns.Regex, err = text(m["regex"], what+".regex", maxRegex); err != nil {
			return nil, err
		}
		if m["exclusive"].Kind != yaml.ScalarNode || m["exclusive"].Tag != "!!bool" || m["exclusive"].Decode(&ns.Exclusive) != nil {
			return nil, &Error{Line: m["exclusive"].Line, Msg: what + ".exclusive: it is true or false"}
		}
		if ns.re, err = regexp.Compile(`\A(?:` + ns.Regex + `)`); err != nil {
			return nil, &Error{Line: m["regex"].Line, Msg: fmt.Sprintf("%s.regex: %q cannot be used: %s", what, ns.Regex,
				strings.TrimPrefix(err.Error(), "error parsing regexp: "))}
		}
		out = append(out, ns)
	}
	return out, nil
}

// nearest is the name that is most like s, or "" if none is.
func nearest(s string, names []string) string {
	best, at := "", 4
	for _, n := range names {
		if d := distance(s, n); d < at && d < len(n) {
			best, at = n, d
		}
	}
	return best
}

// distance is how many letters must be put in, taken out or changed.
func distance(a, b string) int {
	if len(a) > 100 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
