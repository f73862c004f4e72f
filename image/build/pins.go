package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// pin is one exact package of Debian.
type pin struct {
	Name    string `json:"name"`
	Arch    string `json:"arch"` // of the package; "all" is for every architecture
	Version string `json:"version"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Source  string `json:"source"` // the source package with its version: "linux 6.1.1-1"
	// BuiltUsing are further source packages whose code is in it.
	BuiltUsing []string `json:"built_using,omitempty"`
	Component  string   `json:"component"`
	// For are the architectures whose image it is part of.
	For []string `json:"for"`
}

const pinsFile = "image/build/pins.json"

//go:embed pins.json
var pinsJSON []byte

func readPins() (list []pin, err error) {
	if err = json.Unmarshal(pinsJSON, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", pinsFile, err)
	}
	return list, nil
}

// wanted are the packages that make up the image, by architecture. The kernel's name
// changes with its interface, so the package that depends on the newest is asked.
var wanted = map[string][]string{
	"amd64": {kernelOf + "linux-image-amd64", "systemd-boot-efi",
		"firmware-bnx2", "firmware-bnx2x", "firmware-linux-free", "firmware-misc-nonfree", "firmware-realtek",
		"amd64-microcode", "intel-microcode"},
	"arm64": {kernelOf + "linux-image-arm64", "systemd-boot-efi",
		"firmware-bnx2", "firmware-bnx2x", "firmware-linux-free", "firmware-misc-nonfree", "firmware-realtek",
		"raspi-firmware", "u-boot-rpi"},
}

const kernelOf = "what is needed by "

var (
	kernelPackage = regexp.MustCompile(`\blinux-image-[0-9][0-9A-Za-z.-]*`)
	sourceField   = regexp.MustCompile(`^(\S+)(?: \((.*)\))?$`)
	usingField    = regexp.MustCompile(`(\S+) \(= ([^)]*)\)`)
)

// refreshPins asks what Debian serves now and writes the list anew.
func refreshPins(ctx context.Context, cache, sources string) error {
	a, err := newAPT(ctx, filepath.Join(cache, "apt"), sources)
	if err != nil {
		return err
	}
	old, err := readPins()
	if err != nil {
		return err
	}
	var list []pin
	for _, arch := range []string{"amd64", "arm64"} {
		for _, name := range wanted[arch] {
			if meta, ok := strings.CutPrefix(name, kernelOf); ok {
				f, err := a.candidate(ctx, meta, arch)
				if err != nil {
					return err
				}
				if name = kernelPackage.FindString(f["Depends"]); name == "" {
					return fmt.Errorf("%s depends on %q, where no kernel is", meta, f["Depends"])
				}
			}
			f, err := a.candidate(ctx, name, arch)
			if err != nil {
				return err
			}
			p, err := pinOf(f)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(q pin) bool { return q.Name == p.Name && q.Arch == p.Arch })
			if i < 0 {
				i = len(list)
				list = append(list, p)
			}
			list[i].For = append(list[i].For, arch)
		}
	}
	slices.SortFunc(list, func(a, b pin) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch)) })
	for _, p := range list {
		if !slices.ContainsFunc(old, func(q pin) bool { return q.Name == p.Name && q.Arch == p.Arch && q.SHA256 == p.SHA256 }) {
			fmt.Printf("   new: %s %s %s\n", p.Name, p.Version, p.Arch)
		}
	}
	b, err := json.MarshalIndent(list, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(pinsFile, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return refreshSources(ctx, a, list)
}

func pinOf(f map[string]string) (p pin, err error) {
	p = pin{Name: f["Package"], Arch: f["Architecture"], Version: f["Version"], SHA256: f["SHA256"], Component: "main"}
	if p.Size, err = strconv.ParseInt(f["Size"], 10, 64); err != nil {
		return p, fmt.Errorf("%s: size %q", p.Name, f["Size"])
	}
	if c, _, ok := strings.Cut(f["Section"], "/"); ok {
		p.Component = c
	}
	source, version := p.Name, p.Version
	if m := sourceField.FindStringSubmatch(f["Source"]); m != nil {
		source = m[1]
		version = cmp.Or(m[2], version)
	}
	p.Source = source + " " + version
	for _, field := range []string{"Built-Using", "Static-Built-Using"} {
		for _, m := range usingField.FindAllStringSubmatch(f[field], -1) {
			p.BuiltUsing = append(p.BuiltUsing, m[1]+" "+m[2])
		}
	}
	slices.Sort(p.BuiltUsing)
	p.BuiltUsing = slices.Compact(p.BuiltUsing)
	return p, nil
}

// file is what the package is called in the cache.
func (p pin) file() string {
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Arch)
}

// archiveName is what the package is called in Debian's archives: without the epoch.
func (p pin) archiveName() string {
	version := p.Version
	if _, v, ok := strings.Cut(version, ":"); ok {
		version = v
	}
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, version, p.Arch)
}

// check compares a file with the pin.
func (p pin) check(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("%s has the SHA-256 %s, but %s has pinned %s. Remove the file and try again; if it stays so, do not use it", name, got, pinsFile, p.SHA256)
	}
	return nil
}

// fetch gives the packages' files, from the cache, from Debian's archive, or from that
// of old packages. Each is checked every time.
func fetch(ctx context.Context, o options, pins []pin) (map[string]string, error) {
	debs := filepath.Join(o.cache, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return nil, err
	}
	var a *apt
	out := map[string]string{}
	for _, p := range pins {
		path := filepath.Join(debs, p.file())
		if _, err := os.Stat(path); err != nil {
			if a == nil {
				say("fetching Debian packages into %s", debs)
				if a, err = newAPT(ctx, filepath.Join(o.cache, "apt"), o.sources); err != nil {
					return nil, err
				}
			}
			if err := a.download(ctx, p, path); err != nil {
				// What was replaced in Debian's archive is still in that of old packages.
				old := o.snapshot.binary(ctx, p, path)
				if old != nil {
					return nil, fmt.Errorf("%w\nThe archive of old packages: %w", err, old)
				}
				say("%s comes from the archive of old packages", p.file())
			}
		}
		if err := p.check(path); err != nil {
			return nil, err
		}
		out[p.Name] = path
	}
	return out, nil
}

// download fetches one package. It has its name in the cache only once it is whole.
func (a *apt) download(ctx context.Context, p pin, path string) error {
	dir, err := os.MkdirTemp(a.dir, "get-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	arch := p.Arch
	if arch == "all" {
		arch = "amd64"
	}
	if _, err := a.run(ctx, dir, "apt-get", "download", "-q", fmt.Sprintf("%s:%s=%s", p.Name, arch, p.Version)); err != nil {
		serves := "nothing of that name"
		if f, err := a.candidate(ctx, p.Name, arch); err == nil {
			serves = "version " + f["Version"]
		}
		return fmt.Errorf(`%s %s cannot be fetched; Debian's archive has %s now.
When it has moved on: run "make image-pins", look at what changed in %s, build, test and commit it.
To build exactly this version, lay %s with the SHA-256 %s (from a mirror of old packages) into %s.
%w`, p.Name, p.Version, serves, pinsFile, p.file(), p.SHA256, filepath.Dir(path), err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("apt-get download %s left %d files", p.Name, len(found))
	}
	if err := p.check(found[0]); err != nil {
		return err
	}
	return os.Rename(found[0], path)
}
