package main

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sourcePin is one exact source package of Debian.
type sourcePin struct {
	Source string       `json:"source"` // name and version
	Files  []sourceFile `json:"files"`
}

// sourceFile is a file of a source package, as Debian's signed list has it.
type sourceFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

const sourcesFile = "image/build/sources.json"

//go:embed sources.json
var sourcesJSON []byte

// readSources are the files of all sources of the pinned packages.
func readSources(pins []pin) ([]sourcePin, error) {
	var list []sourcePin
	if err := json.Unmarshal(sourcesJSON, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", sourcesFile, err)
	}
	var out []sourcePin
	for _, s := range sourcePackages(pins) {
		i := slices.IndexFunc(list, func(p sourcePin) bool { return p.Source == s })
		if i < 0 || len(list[i].Files) == 0 {
			return nil, fmt.Errorf("%s does not have the files of %s; run: make image-pins", sourcesFile, s)
		}
		out = append(out, list[i])
	}
	return out, nil
}

// sourcePackages are the exact sources of all that Debian built, sorted.
func sourcePackages(pins []pin) (list []string) {
	for _, p := range pins {
		list = append(append(list, p.Source), p.BuiltUsing...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// sourceOf asks apt for the files of a source package.
func (a *apt) sourceOf(ctx context.Context, source string) (p sourcePin, err error) {
	name, version, _ := strings.Cut(source, " ")
	text, err := a.run(ctx, "", "apt-cache", "showsrc", "--only-source", name)
	if err != nil {
		return p, err
	}
	for record := range strings.SplitSeq(text, "\n\n") {
		if files, ok := sourceRecord(record, version); ok {
			return sourcePin{source, files}, nil
		}
	}
	return p, fmt.Errorf("apt knows no source package %s %s", name, version)
}

// sourceRecord reads the checksums of one record of Debian's list of sources; false
// when it is of another version or has none.
func sourceRecord(record, version string) (files []sourceFile, ok bool) {
	field := ""
	for line := range strings.Lines(record) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, " ") {
			var value string
			field, value, _ = strings.Cut(line, ":")
			ok = ok || field == "Version" && strings.TrimSpace(value) == version
			continue
		}
		f := strings.Fields(line)
		if field != "Checksums-Sha256" || len(f) != 3 || len(f[0]) != 64 || filepath.Base(f[2]) != f[2] {
			continue
		}
		if size, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			files = append(files, sourceFile{f[2], size, f[0]})
		}
	}
	slices.SortFunc(files, func(a, b sourceFile) int { return cmp.Compare(a.Name, b.Name) })
	return files, ok && len(files) > 0
}

// refreshSources writes down the files of the pinned packages' sources, while Debian
// still lists them.
func refreshSources(ctx context.Context, a *apt, pins []pin) error {
	if err := a.withSources(ctx); err != nil {
		return err
	}
	var list []sourcePin
	for _, s := range sourcePackages(pins) {
		p, err := a.sourceOf(ctx, s)
		if err != nil {
			return err
		}
		list = append(list, p)
	}
	b, err := json.MarshalIndent(list, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(sourcesFile, append(b, '\n'), 0o644)
}

// check compares a file in a folder with its pin.
func (f sourceFile) check(dir string) error {
	sum, _, err := sumFile(filepath.Join(dir, f.Name))
	if err != nil {
		return err
	}
	if sum != f.SHA256 {
		return fmt.Errorf("%s has the SHA-256 %s, not %s", f.Name, sum, f.SHA256)
	}
	return nil
}

// fetchSources lays the source packages into a folder, each file exactly as pinned:
// those that are there stay, the others come from Debian's archive, and what is not
// served there any more from its archive of old packages.
func fetchSources(ctx context.Context, o options, dir string) error {
	pins, err := readPins()
	if err != nil {
		return err
	}
	list, err := readSources(pins)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var a *apt
	var failed []string
	for _, s := range list {
		missing := func() (out []sourceFile) {
			for _, f := range s.Files {
				if f.check(dir) != nil {
					out = append(out, f)
				}
			}
			return out
		}
		if len(missing()) == 0 {
			say("%s: there", s.Source)
			continue
		}
		if a == nil {
			if a, err = newAPT(ctx, filepath.Join(o.cache, "apt"), o.sources); err == nil {
				err = a.withSources(ctx)
			}
			if err != nil {
				return err
			}
		}
		say("%s", s.Source)
		name, version, _ := strings.Cut(s.Source, " ")
		_, err := a.run(ctx, dir, "apt-get", "source", "-q", "--download-only", "--only-source", name+"="+version)
		for _, f := range missing() {
			// apt says why it has not got it; what it left is not the file.
			old := o.snapshot.source(ctx, name, version, f, dir)
			if old == nil {
				continue
			}
			os.Remove(filepath.Join(dir, f.Name))
			failed = append(failed, fmt.Sprintf("  %s  %s  (%s)\n    %v", f.SHA256, f.Name, o.snapshot.page(name, version), old))
		}
		if len(failed) > 0 && err != nil {
			say("%v", err)
		}
	}
	if len(failed) > 0 {
		return errors.New("these files are served nowhere that could be asked. Get them from the pages named, or from a mirror; laid into " + dir +
			" they are checked and taken by the next call:\n" + strings.Join(failed, "\n"))
	}
	return nil
}
