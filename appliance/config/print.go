package config

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// Template writes appliance.toml: every key, commented out, with its default.
func Template(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Holdfast: what the appliance must know before it can open its database.
# Everything else is a setting in the database: use the console or the CLI.
#
# All of it may stay as it is. A line that starts with #key = shows the default;
# remove the # to change it. The same keys work as --set key=value on the command
# line (it wins) and as environment variables: listen.https is HOLDFAST_LISTEN_HTTPS.
#
# Generated from appliance/config; change it there: go test ./appliance/config -update
`)
	def := Default()
	table := ""
	for _, f := range fields {
		name := f.key
		if i := strings.IndexByte(f.key, '.'); i >= 0 {
			if t := f.key[:i]; t != table {
				table = t
				b.WriteByte('\n')
				comment(&b, f.group)
				fmt.Fprintf(&b, "[%s]\n", t)
			}
			name = f.key[i+1:]
		}
		if table == "" {
			b.WriteByte('\n')
		}
		comment(&b, f.doc)
		fmt.Fprintf(&b, "#%s = %s\n", name, f.literal(def))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func comment(b *strings.Builder, doc string) {
	if doc == "" {
		return
	}
	for line := range strings.SplitSeq(doc, "\n") {
		b.WriteString("# " + line + "\n")
	}
}

func (f field) literal(c *Config) string {
	v := f.get(c)
	if v.Kind() == reflect.String {
		return quote(v.String())
	}
	return fmt.Sprint(v.Interface())
}

// quote writes a TOML basic string. set refuses control characters, so escaping
// the quote and the backslash is enough.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Value is one key as Values lists it.
type Value struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Source string `json:"source"` // "default", "appliance.toml:3", "HOLDFAST_DATA", "--set"
}

// Values lists all keys in order. Secrets that are set are replaced by "(secret)".
func (c *Config) Values() []Value {
	var out []Value
	for _, f := range fields {
		v := f.get(c).Interface()
		if f.secret && v != "" {
			v = "(secret)"
		}
		out = append(out, Value{f.key, v, c.Source(f.key).String()})
	}
	return out
}

// Print writes the configuration in effect as TOML that Load accepts, apart from
// secrets, with the source of each value that was set.
func (c *Config) Print(w io.Writer) error {
	var b strings.Builder
	table := ""
	for i, v := range c.Values() {
		name := v.Key
		if t, rest, ok := strings.Cut(v.Key, "."); ok {
			if t != table {
				table = t
				fmt.Fprintf(&b, "\n[%s]\n", t)
			}
			name = rest
		}
		lit := fmt.Sprint(v.Value)
		if s, ok := v.Value.(string); ok {
			lit = quote(s)
		} else if n, ok := v.Value.(int); ok {
			lit = strconv.Itoa(n)
		}
		line := name + " = " + lit
		if fields[i].secret && v.Value != "" {
			line = "#" + line
		}
		b.WriteString(line)
		if v.Source != "default" {
			b.WriteString("  # " + v.Source)
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}
