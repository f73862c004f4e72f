package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

const maxFileBytes = 1 << 20

// Input is where Load takes the configuration from.
type Input struct {
	File string   // appliance.toml; "": File is looked for in the data folder and in /etc/holdfast
	Data string   // --data; "" if not given
	Env  []string // as os.Environ; HOLDFAST_... count
	Set  []string // "key=value", as given with --set
}

// Load reads all sources, in order of precedence. The error is a join of *Error,
// all that are wrong at once.
func Load(in Input) (*Config, error) {
	set := slices.Clone(in.Set)
	if in.Data != "" {
		set = append(set, "data="+in.Data)
	}
	env, file := environ(in.Env)
	if in.File != "" {
		file = in.File
	}
	if file == "" {
		file = find(env, set)
	}
	c := Default()
	var errs []error
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, &Error{Source{Name: file}, "", fmt.Sprintf("the configuration file cannot be read: %v; check the name and who may read it", errors.Unwrap(err))}
		}
		errs = append(errs, c.apply(file, b)...)
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		f, ok := byEnv[name]
		if !ok && !meant(name) {
			c.Ignored = append(c.Ignored, name)
			continue
		}
		if !ok {
			errs = append(errs, &Error{Source{Name: name}, "", "there is no such setting; " + suggest(name, keysOf(byEnv))})
			continue
		}
		if err := c.set(f, value, Source{Name: name}); err != nil {
			errs = append(errs, err)
		}
	}
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			errs = append(errs, &Error{Source{Name: "--set"}, key, "write --set " + key + "=VALUE"})
			continue
		}
		f, ok := byKey[key]
		if !ok {
			errs = append(errs, &Error{Source{Name: "--set"}, key, "there is no such key; " + suggest(key, keysOf(byKey))})
			continue
		}
		if err := c.set(f, value, Source{Name: "--set"}); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		errs = c.check()
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, nil
}

// find is the configuration file where none was named: in the data folder that
// the environment or --set names, else in /etc/holdfast. "" if there is none.
func find(env, set []string) string {
	data := Default().Data
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "HOLDFAST_DATA="); ok {
			data = v
		}
	}
	for _, s := range set {
		if v, ok := strings.CutPrefix(s, "data="); ok {
			data = v
		}
	}
	for _, f := range []string{filepath.Join(data, "appliance.toml"), "/etc/holdfast/appliance.toml"} {
		if _, err := os.Stat(f); err == nil {
			return f
		}
	}
	return ""
}

// environ picks our variables out, sorted, and HOLDFAST_CONFIG, the file's name.
func environ(all []string) (ours []string, file string) {
	for _, e := range all {
		if v, ok := strings.CutPrefix(e, "HOLDFAST_CONFIG="); ok {
			file = v
		} else if strings.HasPrefix(e, "HOLDFAST_") {
			ours = append(ours, e)
		}
	}
	slices.Sort(ours)
	return ours, file
}

// EnvName is the variable that sets key: "listen.https" is HOLDFAST_LISTEN_HTTPS.
func EnvName(key string) string {
	return "HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// meant reports whether an unknown variable must be a misspelt setting: it begins
// like a group of them, or is two letters off. Others are not refused, since
// tools set variables of their own (HOLDFAST_SERVICE_HOST in a container of that name).
func meant(name string) bool {
	for known := range byEnv {
		if distance(name, known) <= 2 {
			return true
		}
	}
	for _, f := range fields {
		if group, _, ok := strings.Cut(f.key, "."); ok && strings.HasPrefix(name, EnvName(group)+"_") {
			return true
		}
	}
	return false
}

var byEnv = func() map[string]field {
	m := map[string]field{}
	for _, f := range fields {
		m[EnvName(f.key)] = f
	}
	return m
}()

func keysOf(m map[string]field) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// apply reads a TOML file over c.
func (c *Config) apply(name string, b []byte) (errs []error) {
	if len(b) > maxFileBytes {
		return []error{&Error{Source{Name: name}, "", "the file is larger than 1 MiB; this cannot be an appliance.toml"}}
	}
	var tree map[string]any
	if err := toml.Unmarshal(b, &tree); err != nil {
		src := Source{Name: name}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			src.Line, _ = de.Position()
		}
		return []error{&Error{src, "", "this is not valid TOML: " + strings.TrimPrefix(err.Error(), "toml: ")}}
	}
	lines := lineNumbers(b)
	var walk func(prefix string, table map[string]any)
	walk = func(prefix string, table map[string]any) {
		for _, k := range sortedKeys(table) {
			key := prefix + k
			src := Source{Name: name, Line: max(1, lines.of(key))}
			if f, ok := byKey[key]; ok {
				if err := c.set(f, table[k], src); err != nil {
					errs = append(errs, err)
				}
				continue
			}
			sub, isTable := table[k].(map[string]any)
			switch {
			case isTable && hasGroup(key):
				walk(key+".", sub)
			case hasGroup(key):
				errs = append(errs, &Error{src, key, "this is a group of settings; write [" + key + "] on a line of its own and the settings below it"})
			case isTable && len(sub) > 0:
				// Name each key inside, since the misspelling may be in the table's name.
				for _, inner := range sortedKeys(sub) {
					errs = append(errs, &Error{Source{name, max(1, lines.of(key+"."+inner))}, key + "." + inner, "there is no such key; " + suggest(key+"."+inner, keysOf(byKey))})
				}
			default:
				errs = append(errs, &Error{src, key, "there is no such key; " + suggest(key, keysOf(byKey))})
			}
		}
	}
	walk("", tree)
	slices.SortStableFunc(errs, func(a, b error) int { return a.(*Error).Source.Line - b.(*Error).Source.Line })
	return errs
}

func sortedKeys(m map[string]any) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func hasGroup(name string) bool {
	for _, f := range fields {
		if strings.HasPrefix(f.key, name+".") {
			return true
		}
	}
	return false
}

type lineMap map[string]int

// of is the line of a key, or of the nearest table above it that has one.
func (m lineMap) of(key string) int {
	for {
		if n, ok := m[key]; ok {
			return n
		}
		i := strings.LastIndexByte(key, '.')
		if i < 0 {
			return 0
		}
		key = key[:i]
	}
}

// lineNumbers finds the line on which each key of a valid TOML file stands.
func lineNumbers(b []byte) lineMap {
	m := lineMap{}
	var p unstable.Parser
	p.Reset(b)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		line := 0
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if line == 0 && n.Raw.Length > 0 {
				line = p.Shape(n.Raw).Start.Line
			}
			parts = append(parts, string(n.Data))
		}
		path := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = path + "."
		case unstable.KeyValue:
			path = table + path
		default:
			continue
		}
		if _, ok := m[path]; !ok {
			m[path] = line
		}
	}
	return m
}

// suggest names the nearest valid key.
func suggest(key string, valid []string) string {
	best := Nearest(key, valid)
	if best == "" {
		return "`holdfast config print` lists all keys"
	}
	return fmt.Sprintf("did you mean %s?", best)
}

// Nearest is the one of valid that key is most likely a misspelling of, or "".
func Nearest(key string, valid []string) string {
	best, at := "", len(key)/2+2
	for _, v := range valid {
		d := distance(key, v)
		if i := strings.LastIndexByte(v, '.'); i >= 0 && !strings.Contains(key, ".") {
			d = min(d, distance(key, v[i+1:])+1) // the table was forgotten
		}
		if d < at {
			best, at = v, d
		}
	}
	return best
}

// distance is the number of letters to change, insert or remove.
func distance(a, b string) int {
	if len(a) > 100 {
		a = a[:100]
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
