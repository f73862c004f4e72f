package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/settings"
	"holdfast/homeserver/media"
)

// fileRules are what an administrator decided about uploaded files. They are kept in
// the form in which they are typed.
type fileRules struct {
	MaxUpload string `json:"max_upload"` // size
	Quota     string `json:"quota"`      // size, or "none"
	Total     string `json:"total"`      // size, or "none"
	Keep      string `json:"keep"`       // duration, or "forever"
	Open      string `json:"open"`       // "never", "always", or a day: files from before it
}

// fields pairs the rules with the settings that keep them and what holds without one.
func (f *fileRules) fields() []fileRule {
	return []fileRule{
		{&f.MaxUpload, settings.MaxUpload, "100M", "max-upload"},
		{&f.Quota, settings.FileQuota, "none", "quota"},
		{&f.Total, settings.FileTotal, "none", "total"},
		{&f.Keep, settings.FileKeep, "forever", "keep"},
		{&f.Open, settings.FileOpen, "never", "open"},
	}
}

type fileRule struct {
	value                 *string
	key, standard, option string
}

// fileRules are the rules that hold.
func (a *Appliance) fileRules() (f fileRules) {
	for _, r := range f.fields() {
		if *r.value = a.settings.Get(r.key); *r.value == "" {
			*r.value = r.standard
		}
	}
	return f
}

// setFileRules changes the rules that are not empty.
func (a *Appliance) setFileRules(ctx context.Context, change fileRules) error {
	all := a.fileRules()
	values := map[string]string{}
	to := all.fields()
	for i, r := range change.fields() {
		if *r.value != "" {
			*to[i].value = *r.value
			if values[r.key] = *r.value; *r.value == r.standard {
				values[r.key] = ""
			}
		}
	}
	if _, err := all.parse(); err != nil {
		return err
	}
	return a.settings.Put(ctx, values)
}

// ruleError is a rule that cannot be read.
type ruleError struct{ option, text string }

func (e *ruleError) Error() string { return "--" + e.option + " " + e.text }

// always is after every upload.
var always = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// parse makes of the rules what the homeserver is told.
func (f fileRules) parse() (set media.Settings, err error) {
	var errs []error
	size := func(option, s string) (n int64) {
		n, err := parseSize(s)
		if err != nil {
			errs = append(errs, &ruleError{option, fmt.Sprintf("%q is no size; write for example 500M or 20G", s)})
		}
		return n
	}
	set.MaxUpload = size("max-upload", f.MaxUpload)
	if f.Quota != "none" {
		set.UserQuota = size("quota", f.Quota)
	}
	if f.Total != "none" {
		set.TotalQuota = size("total", f.Total)
	}
	if f.Keep != "forever" {
		if set.Lifetime, err = parseDuration(f.Keep); err != nil || set.Lifetime < 24*time.Hour {
			errs = append(errs, &ruleError{"keep", fmt.Sprintf("%q is no time of a day or more; write for example 365d, or forever", f.Keep)})
		}
	}
	switch f.Open {
	case "never":
	case "always":
		set.OpenBefore = always
	default:
		if set.OpenBefore, err = time.Parse(time.DateOnly, f.Open); err != nil {
			errs = append(errs, &ruleError{"open", fmt.Sprintf("%q is no day; write for example 2027-01-31, or always or never", f.Open)})
		}
	}
	return set, errors.Join(errs...)
}

// files is what the homeserver is told about files.
func (a *Appliance) files() media.Settings {
	set, err := a.fileRules().parse()
	if err != nil { // an older version wrote them
		a.log.Error("the rules for files cannot be read; set them anew with holdfast files set", "err", err)
	}
	set.Previews = a.previews()
	return set
}

// parseSize reads "500M": a whole number above 0 of bytes, or of K, M, G or T, each
// 1024 of the one before.
func parseSize(s string) (int64, error) {
	unit := int64(1)
	num := strings.TrimRight(s, "kKmMgGtT")
	switch strings.ToUpper(s[len(num):]) {
	case "":
	case "K":
		unit = 1 << 10
	case "M":
		unit = 1 << 20
	case "G":
		unit = 1 << 30
	case "T":
		unit = 1 << 40
	default:
		return 0, errors.New("not a size")
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n <= 0 || n > (1<<50)/unit {
		return 0, errors.New("not a size")
	}
	return n * unit, nil
}

// filesControl are the operations of the local socket about files.
func (a *Appliance) filesControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/files", func(*http.Request) (any, error) { return a.fileRules(), nil })
	handle("PUT /v1/files", func(r *http.Request) (any, error) {
		var in fileRules
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		err := a.setFileRules(r.Context(), in)
		return a.fileRules(), err
	})
}

func runFilesSet(ctx context.Context, c *cli, _ []string) error {
	if c.files == (fileRules{}) {
		return &usageError{"say what to change, such as --quota 5G"}
	}
	return c.fileRules(ctx, "PUT", c.files)
}

func runFilesShow(ctx context.Context, c *cli, _ []string) error {
	return c.fileRules(ctx, "GET", nil)
}

func (c *cli) fileRules(ctx context.Context, method string, in any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var f fileRules
	if err := cl.call(ctx, method, "/v1/files", in, &f); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(f)
	}
	fmt.Fprintf(c.out, "Largest file:            %s\nOf each person:          %s\nOf all together:         %s\nKept when nobody asks:   %s\n", f.MaxUpload, f.Quota, f.Total, f.Keep)
	switch f.Open {
	case "never":
		fmt.Fprintln(c.out, "Without signing in:      nothing is given out")
	case "always":
		fmt.Fprintln(c.out, "Without signing in:      everything is given out to whoever knows its address")
	default:
		fmt.Fprintf(c.out, "Without signing in:      what was uploaded before %s\n", f.Open)
	}
	return nil
}
