package bulk

import (
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/text/encoding/charmap"
)

// Limits of a list.
const (
	MaxBytes  = 32 << 20
	maxPeople = 50_000
	maxValue  = 4096 // bytes of a value; of groups together maxGroups times that
	maxGroups = 200
	// maxProblems are told; a list with more is of another kind than it seems.
	maxProblems = 200
)

// The forms of a list.
const (
	CSV  = "csv"  // with a line of headings, as spreadsheets, Entra, csvde and Export-Csv write
	LDIF = "ldif" // RFC 2849
)

// Person is somebody in a list.
type Person struct {
	Line     int // where it begins
	Subject  string
	Name     string // user name
	Full     string
	Groups   []string
	Disabled bool
}

// Problem is something in a list that is left out, and why.
type Problem struct {
	Line int    `json:"line"`
	Text string `json:"text"`
}

// Reading is what a list says.
type Reading struct {
	Format   string
	People   []Person
	Problems []Problem
	Notes    []string // how the list was understood
	Groups   bool     // it says who is in which groups
}

// ErrList means that a text is no list of people; the error says why.
var ErrList = errors.New("this is no list of people")

func listError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrList}, args...)...)
}

// Read reads a list. Lines of which no person can be made are left out and told.
// Errors: ErrList.
func Read(b []byte) (Reading, error) {
	if len(b) > MaxBytes {
		return Reading{}, listError("it has more than %d MB", MaxBytes>>20)
	}
	r := &reader{names: map[string]int{}, subjects: map[string]int{}}
	text, err := r.decode(b)
	if err != nil {
		return Reading{}, err
	}
	if strings.TrimSpace(text) == "" {
		return Reading{}, listError("it is empty")
	}
	if isLDIF(text) {
		r.Format = LDIF
		err = r.ldif(text)
	} else {
		r.Format = CSV
		err = r.csv(text)
	}
	if err == nil && len(r.People) == 0 {
		err = listError("there is nobody in it")
		if len(r.Problems) > 0 {
			err = listError("nobody in it can be taken; line %d: %s", r.Problems[0].Line, r.Problems[0].Text)
		}
	}
	return r.Reading, err
}

// reader makes people of records.
type reader struct {
	Reading
	names, subjects map[string]int // line of the first
}

// decode gives the text of a file as spreadsheets and shells write it.
func (r *reader) decode(b []byte) (string, error) {
	switch {
	case bytes.HasPrefix(b, []byte{0xef, 0xbb, 0xbf}):
		b = b[3:]
	case bytes.HasPrefix(b, []byte{0xff, 0xfe}), bytes.HasPrefix(b, []byte{0xfe, 0xff}):
		units := make([]uint16, 0, len(b)/2)
		for i := 2; i+1 < len(b); i += 2 {
			if b[0] == 0xff {
				units = append(units, uint16(b[i])|uint16(b[i+1])<<8)
			} else {
				units = append(units, uint16(b[i])<<8|uint16(b[i+1]))
			}
		}
		return string(utf16.Decode(units)), nil
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return "", listError("it is no text; save the table as CSV, and no .xlsx or .ods")
	}
	if utf8.Valid(b) {
		return string(b), nil
	}
	out, err := charmap.Windows1252.NewDecoder().Bytes(b)
	if err != nil {
		return "", listError("its characters are neither UTF-8 nor Windows-1252; save it as UTF-8")
	}
	r.Notes = append(r.Notes, "The list is not in UTF-8; it was read as Windows-1252. Look at the names with umlauts and accents.")
	return string(out), nil
}

func (r *reader) problem(line int, format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, Problem{line, fmt.Sprintf(format, args...)})
	}
}

// record is somebody as a list has them: values by the names of fields.
type record map[string][]string

// The fields, and by which headings and attributes they go; the first that has a value
// counts. Headings are compared in small letters, without spaces and signs.
var fields = []struct {
	field string
	names []string
}{
	{"name", []string{"username", "user", "login", "loginname", "account", "accountname", "samaccountname", "uid", "mailnickname", "userprincipalname", "upn", "mail", "email", "emailaddress", "benutzername", "anmeldename"}},
	{"full", []string{"displayname", "fullname", "name", "cn", "anzeigename"}},
	{"given", []string{"givenname", "firstname", "vorname"}},
	{"family", []string{"surname", "lastname", "familyname", "sn", "nachname"}},
	{"groups", groupHeadings},
	{"enabled", []string{"accountenabled", "enabled", "active", "aktiv"}},
	{"disabled", []string{"disabled", "blocked", "locked", "gesperrt"}},
	{"control", []string{"useraccountcontrol"}},
	{"subject", []string{"objectguid", "objectid", "entryuuid", "id", "employeeid", "employeenumber", "personalnummer"}},
	{"class", []string{"objectclass"}},
	{"type", []string{"usertype"}},
}

var groupHeadings = []string{"groups", "group", "memberof", "gruppen", "gruppe"}

// fold gives a heading in the form in which it is compared.
func fold(heading string) string {
	heading, _, _ = strings.Cut(heading, ";") // an option of LDIF
	return strings.Map(func(c rune) rune {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return -1
		}
		return unicode.ToLower(c)
	}, heading)
}

// known are the headings of some field.
var known = func() map[string]bool {
	out := map[string]bool{}
	for _, f := range fields {
		for _, n := range f.names {
			out[n] = true
		}
	}
	return out
}()

// of are the values of a field, and the heading that they stand under.
func (x record) of(field string) (values []string, heading string) {
	for _, f := range fields {
		if f.field != field {
			continue
		}
		for _, n := range f.names {
			for _, v := range x[n] {
				if v = strings.TrimSpace(v); v != "" {
					values = append(values, v)
				}
			}
			if values != nil {
				return values, n
			}
		}
	}
	return nil, ""
}

func (x record) first(field string) string {
	values, _ := x.of(field)
	if values == nil {
		return ""
	}
	return values[0]
}

// add makes a person of a record.
func (r *reader) add(line int, x record) error {
	if len(r.People) >= maxPeople {
		return listError("it has more than %d people", maxPeople)
	}
	if classes, _ := x.of("class"); classes != nil {
		var all []string
		for _, c := range classes {
			all = append(all, strings.FieldsFunc(strings.ToLower(c), func(c rune) bool { return c == ';' || c == '|' || c == ' ' })...)
		}
		if slices.Contains(all, "computer") || !slices.ContainsFunc(all, func(c string) bool {
			return slices.Contains([]string{"person", "user", "inetorgperson", "organizationalperson", "posixaccount", "account"}, c)
		}) {
			return nil // a group, a machine, a part of the tree
		}
	}
	p := Person{Line: line, Subject: x.first("subject"), Full: x.first("full")}
	names, heading := x.of("name")
	if names == nil {
		r.problem(line, "there is no user name")
		return nil
	}
	p.Name = strings.ToLower(names[0])
	if strings.Contains(p.Name, "#ext#") || strings.EqualFold(x.first("type"), "guest") {
		r.problem(line, "%s is a guest of another organisation", names[0])
		return nil
	}
	if at := strings.IndexByte(p.Name, '@'); at > 0 && heading != "uid" {
		p.Name = p.Name[:at]
	}
	if p.Full == "" {
		p.Full = strings.TrimSpace(x.first("given") + " " + x.first("family"))
	}
	if len(p.Name) > 255 || len(p.Full) > 255 || len(p.Subject) > 255 {
		r.problem(line, "a name has more than 255 bytes")
		return nil
	}
	if strings.ContainsFunc(p.Full, unicode.IsControl) || strings.ContainsFunc(p.Subject, unicode.IsControl) {
		r.problem(line, "%s: a value has control characters", p.Name)
		return nil
	}
	var why string
	if p.Disabled, why = disabled(x); why != "" {
		r.problem(line, "%s: %s", p.Name, why)
		return nil
	}
	p.Groups = groupsOf(x)
	r.Groups = r.Groups || len(p.Groups) > 0
	if len(p.Groups) > maxGroups {
		r.problem(line, "%s is in more than %d groups", p.Name, maxGroups)
		return nil
	}
	if p.Subject = subject(p.Subject); p.Subject == "" {
		p.Subject = "name:" + p.Name
	}
	for _, seen := range []struct {
		in   map[string]int
		what string
		v    string
	}{{r.names, "the user name " + p.Name, p.Name}, {r.subjects, "the number of " + p.Name, p.Subject}} {
		if before, twice := seen.in[seen.v]; twice {
			r.problem(line, "%s is that of line %d, too", seen.what, before)
			return nil
		}
	}
	r.names[p.Name], r.subjects[p.Subject] = line, line
	r.People = append(r.People, p)
	return nil
}

// subject gives what identifies somebody in one form, however it was exported.
func subject(s string) string {
	s = strings.ToLower(strings.Trim(s, "{}"))
	if x, ok := strings.CutPrefix(s, "x'"); ok { // csvde
		s = strings.TrimSuffix(x, "'")
	}
	return s
}

// disabled reports whether a record says that somebody may not sign in.
func disabled(x record) (bool, string) {
	if v := x.first("control"); v != "" {
		n, err := strconv.ParseInt(v, 0, 64)
		if err != nil {
			return false, "userAccountControl is no number: " + v
		}
		return n&2 != 0, "" // ACCOUNTDISABLE
	}
	for _, f := range []struct {
		field string
		yes   bool
	}{{"enabled", false}, {"disabled", true}} {
		switch v := strings.ToLower(x.first(f.field)); v {
		case "":
		case "true", "yes", "1", "on", "ja", "wahr", "enabled", "active", "x":
			return f.yes, ""
		case "false", "no", "0", "off", "nein", "falsch", "disabled", "inactive", "-":
			return !f.yes, ""
		default:
			return false, fmt.Sprintf("%q in the column %s is neither yes nor no", v, f.field)
		}
	}
	return false, ""
}

// groupsOf are the groups that a record names: by names with semicolons or bars between,
// or by distinguished names.
func groupsOf(x record) (out []string) {
	values, _ := x.of("groups")
	for _, v := range values {
		for _, part := range strings.FieldsFunc(v, func(c rune) bool { return c == ';' || c == '|' }) {
			part = strings.TrimSpace(part)
			if dn, err := ldap.ParseDN(part); err == nil && len(dn.RDNs) > 0 && strings.ContainsRune(part, '=') {
				part = dn.RDNs[0].Attributes[0].Value
			}
			if part != "" && !slices.Contains(out, part) {
				out = append(out, part)
			}
		}
	}
	slices.Sort(out)
	return out
}

func (r *reader) csv(text string) error {
	if first, rest, ok := strings.Cut(text, "\n"); ok {
		switch {
		case strings.HasPrefix(first, "#TYPE"): // of Export-Csv
			text = "\n" + rest
		case strings.HasPrefix(strings.ToLower(first), "sep="): // of spreadsheets
			text = "\n" + rest
		}
	}
	c := csv.NewReader(strings.NewReader(text))
	c.Comma = separator(text)
	c.FieldsPerRecord = -1
	c.ReuseRecord = true
	var headings []string
	for {
		row, err := c.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			var p *csv.ParseError
			if errors.As(err, &p) {
				return listError("line %d: %v", p.Line, p.Err)
			}
			return listError("%v", err)
		}
		line, _ := c.FieldPos(0)
		if headings == nil {
			some := false
			for _, h := range row {
				h = fold(h)
				headings = append(headings, h)
				some = some || known[h]
				r.Groups = r.Groups || slices.Contains(groupHeadings, h)
			}
			if !some {
				return listError("the first line names no column that is known, such as username and displayname; it says: %.100s", strings.Join(row, string(c.Comma)))
			}
			continue
		}
		if len(row) > len(headings) {
			r.problem(line, "there are more values than columns")
			continue
		}
		x, long := record{}, false
		for i, v := range row {
			long = long || len(v) > maxValue*maxGroups
			if known[headings[i]] && v != "" {
				x[headings[i]] = append(x[headings[i]], v)
			}
		}
		if long {
			r.problem(line, "a value is too long")
			continue
		}
		if len(x) == 0 {
			continue // an empty line of a spreadsheet
		}
		if err := r.add(line, x); err != nil {
			return err
		}
	}
	if headings == nil {
		return listError("it is empty")
	}
	return nil
}

// separator is what stands between the headings.
func separator(text string) rune {
	first, _, _ := strings.Cut(strings.TrimLeft(text, "\r\n"), "\n")
	best, most := ',', -1
	for _, c := range ",;\t" {
		if n := strings.Count(first, string(c)); n > most {
			best, most = c, n
		}
	}
	return best
}

// isLDIF reports whether a text begins as LDIF does.
func isLDIF(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.ToLower(strings.TrimSpace(line))
		if line == "" || strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "#type") {
			continue
		}
		return strings.HasPrefix(line, "version:") || strings.HasPrefix(line, "dn:")
	}
	return false
}

func (r *reader) ldif(text string) error {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	var (
		x     record
		begun int // line of the entry
		name  string
		value []byte
		deep  bool // value is base64
		at    int  // line of the value
		skip  bool // the entry is left out
	)
	keep := func() {
		if name == "" || x == nil {
			name = ""
			return
		}
		v := value
		if deep {
			var err error
			if v, err = base64.StdEncoding.DecodeString(string(bytes.TrimSpace(value))); err != nil {
				r.problem(at, "the value of %s is no base64", name)
				skip, name = true, ""
				return
			}
		}
		h := fold(name)
		switch {
		case h == "changetype" && string(v) != "add":
			r.problem(at, "the list has changes; export the entries themselves")
			skip = true
		case !known[h]:
		case h == "objectguid" && !utf8.Valid(v) || h == "objectguid" && len(v) == 16:
			x[h] = append(x[h], hex.EncodeToString(v))
		case !utf8.Valid(v):
			r.problem(at, "the value of %s is no text", name)
			skip = true
		default:
			x[h] = append(x[h], string(v))
		}
		name = ""
	}
	end := func() error {
		keep()
		y, left := x, skip
		x, skip = nil, false
		if y == nil || left {
			return nil
		}
		return r.add(begun, y)
	}
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		switch {
		case strings.HasPrefix(line, " "): // goes on
			if len(value)+len(line) > maxValue*maxGroups {
				return listError("line %d: a value is too long", n)
			}
			value = append(value, line[1:]...)
			continue
		case line == "":
			if err := end(); err != nil {
				return err
			}
			continue
		}
		keep()
		if strings.HasPrefix(line, "#") {
			continue
		}
		k, v, ok := strings.Cut(line, ":")
		if !ok {
			return listError("line %d is no LDIF: %.60s", n, line)
		}
		switch {
		case strings.EqualFold(k, "version") && x == nil:
			continue
		case strings.EqualFold(k, "dn"):
			if x != nil {
				return listError("line %d: an entry begins within another", n)
			}
			x, begun = record{}, n
			continue
		case x == nil:
			return listError("line %d: an entry begins with its dn", n)
		}
		if strings.HasPrefix(v, "<") {
			r.problem(n, "the value of %s is in another file", k)
			skip = true
			continue
		}
		name, at, deep = k, n, false
		if b, ok := strings.CutPrefix(v, ":"); ok {
			v, deep = b, true
		}
		value = []byte(strings.TrimLeft(v, " "))
	}
	return end()
}
