package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// suite is the Debian release that all packages come from.
const suite = "bookworm"

// components are the parts of Debian's archive that are used: main is free, and
// non-free-firmware holds what devices and processors run themselves.
var components = []string{"main", "non-free-firmware"}

// apt runs Debian's package tools with a state folder of its own, as any user. Where
// packages come from and whose signature counts is what the machine's own
// configuration says.
type apt struct {
	dir  string // its state
	conf string
}

var errNoSources = errors.New(`this machine's apt has no source of Debian ` + suite + `. Build on Debian ` + suite + `, or name a sources file for it: make image APT_SOURCES=FILE (deb822 format, with Signed-By)`)

// newAPT makes the state folder and fetches the lists of packages. sources names a
// file of sources, "" for the machine's own.
func newAPT(ctx context.Context, dir, sources string) (*apt, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, errors.New("apt-get is missing: the image is built of Debian's packages, on Debian or Ubuntu")
	}
	files := []string{sources}
	if sources == "" {
		files = []string{"/etc/apt/sources.list"}
		for _, ext := range []string{"*.list", "*.sources"} {
			found, _ := filepath.Glob("/etc/apt/sources.list.d/" + ext)
			files = append(files, found...)
		}
	}
	var text strings.Builder
	for _, name := range files {
		b, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) && sources == "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		text.WriteString(debianSources(string(b)))
	}
	if text.Len() == 0 {
		return nil, errNoSources
	}
	for _, d := range []string{"lists/partial", "archives/partial", "sources", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	a := &apt{dir: dir, conf: filepath.Join(dir, "apt.conf")}
	conf := fmt.Sprintf(`#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
Dir::State "%[1]s/state";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s";
Dir::Cache::archives "%[1]s/archives";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "%[1]s/sources";
APT::Architecture "amd64";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
`, dir)
	for name, data := range map[string]string{"apt.conf": conf, "status": "", "sources/debian.sources": text.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			return nil, err
		}
	}
	_, err := a.run(ctx, "", "apt-get", "update", "-q")
	return a, err
}

// debianSources takes from a sources file what has this release of Debian, with the
// components and architectures that the image needs.
func debianSources(text string) string {
	var out strings.Builder
	write := func(uris, suites, keys string) {
		var use []string
		for _, s := range strings.Fields(suites) {
			if s == suite || s == suite+"-updates" || s == suite+"-security" {
				use = append(use, s)
			}
		}
		if len(use) == 0 || uris == "" {
			return
		}
		fmt.Fprintf(&out, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nArchitectures: amd64 arm64\n", uris, strings.Join(use, " "), strings.Join(components, " "))
		if keys != "" {
			fmt.Fprintf(&out, "Signed-By: %s\n", strings.TrimRight(keys, "\n"))
		}
		out.WriteString("\n")
	}
	for stanza := range strings.SplitSeq(text+"\n", "\n\n") {
		fields, last := map[string]string{}, ""
		for line := range strings.Lines(stanza) {
			line = strings.TrimRight(line, "\n")
			switch {
			case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
			case strings.HasPrefix(line, "deb ") || strings.HasPrefix(line, "deb\t"): // the older format
				uri, suites, keys := oneLine(line)
				write(uri, suites, keys)
			case line[0] == ' ' || line[0] == '\t':
				fields[last] += "\n" + line
			default:
				k, v, _ := strings.Cut(line, ":")
				last = strings.ToLower(k)
				fields[last] = strings.TrimSpace(v)
			}
		}
		if slices.Contains(strings.Fields(fields["types"]), "deb") && !strings.EqualFold(fields["enabled"], "no") {
			write(strings.Join(strings.Fields(fields["uris"]), " "), fields["suites"], fields["signed-by"])
		}
	}
	return out.String()
}

// oneLine reads "deb [signed-by=KEYS] URI SUITE COMPONENT...".
func oneLine(line string) (uri, suites, keys string) {
	rest := strings.TrimSpace(line[3:])
	if strings.HasPrefix(rest, "[") {
		options, after, ok := strings.Cut(rest[1:], "]")
		if !ok {
			return "", "", ""
		}
		for _, o := range strings.Fields(options) {
			if v, ok := strings.CutPrefix(o, "signed-by="); ok {
				keys = v
			}
		}
		rest = after
	}
	f := strings.Fields(rest)
	if len(f) < 3 || !slices.Contains(f[2:], "main") {
		return "", "", ""
	}
	return f[0], f[1], keys
}

// run calls a tool in a folder and gives what it prints.
func (a *apt) run(ctx context.Context, dir, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.conf, "LC_ALL=C")
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", tool, strings.Join(args, " "), err, strings.TrimSpace(msg.String()))
	}
	return out.String(), nil
}

// withSources makes apt know the source packages, too.
func (a *apt) withSources(ctx context.Context) error {
	name := filepath.Join(a.dir, "sources/debian.sources")
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b = bytes.ReplaceAll(b, []byte("Types: deb\n"), []byte("Types: deb deb-src\n"))
	if err := os.WriteFile(name, b, 0o644); err != nil {
		return err
	}
	_, err = a.run(ctx, "", "apt-get", "update", "-q")
	return err
}

// candidate is the record of the newest version of a package that is served.
func (a *apt) candidate(ctx context.Context, name, arch string) (map[string]string, error) {
	var last error
	for _, n := range []string{name + ":" + arch, name} { // one for all architectures belongs to apt's own
		text, err := a.run(ctx, "", "apt-cache", "show", "--no-all-versions", n)
		if err != nil {
			last = err
			continue
		}
		fields := map[string]string{}
		for line := range strings.Lines(text) {
			if k, v, ok := strings.Cut(line, ": "); ok && line[0] != ' ' {
				if _, twice := fields[k]; !twice {
					fields[k] = strings.TrimSpace(v)
				}
			}
		}
		if fields["SHA256"] != "" && (fields["Architecture"] == arch || fields["Architecture"] == "all") {
			return fields, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("apt knows no package %s for %s", name, arch), last)
}

// unpack lays the files of a package below dir. Nothing of it is run.
func unpack(ctx context.Context, deb, dir string) error {
	out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("dpkg-deb -x %s: %w\n%s", deb, err, out)
	}
	return nil
}
