package main

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// publication is what is published together: files, their checksums with a
// signature, and lists of what is in them.
type publication struct {
	o        options
	keys     *keys
	files    []string // names
	bare     []string // lines of checksums of programs before they were signed
	firmwork []string // lines
	licences []string // texts of Debian's packages
}

// write writes a file that is published.
func (p *publication) write(name string, write func(f *os.File) error) error {
	if err := create(filepath.Join(p.o.out, name), write); err != nil {
		return err
	}
	p.files = append(p.files, name)
	return nil
}

func (p *publication) text(name, text string) error {
	return p.write(name, func(f *os.File) error { _, err := f.WriteString(text); return err })
}

// unsigned notes a program's hash before it is signed, so that others can compare
// their build without having the keys.
func (p *publication) unsigned(arch, name string, b []byte) {
	sum := sha256.Sum256(b)
	p.bare = append(p.bare, fmt.Sprintf("%x  %s-%s.efi\n", sum, name, arch))
}

func (p *publication) firmware(arch string, found, missing []string) {
	for _, f := range found {
		p.firmwork = append(p.firmwork, fmt.Sprintf("%s  in the image  %s\n", arch, f))
	}
	for _, f := range missing {
		p.firmwork = append(p.firmwork, fmt.Sprintf("%s  not served by Debian  %s\n", arch, f))
	}
	say("%s: %d firmware files; %d that drivers may ask for are not served by Debian", arch, len(found), len(missing))
}

// licence keeps what a package says of its licences. Most of firmware may be passed
// on only together with that.
func (p *publication) licence(work string, q pin) error {
	text, err := os.ReadFile(filepath.Join(work, q.Name, "usr/share/doc", q.Name, "copyright"))
	if err != nil {
		return fmt.Errorf("the licences of %s: %w", q.Name, err)
	}
	head := fmt.Sprintf("=== %s %s\n\n", q.Name, q.Version)
	if !slices.ContainsFunc(p.licences, func(t string) bool { return strings.HasPrefix(t, head) }) {
		p.licences = append(p.licences, head+strings.TrimSpace(string(text))+"\n\n")
	}
	return nil
}

func (p *publication) licenceText() string {
	return "Holdfast is licensed under the EUPL-1.2. These are the licences of the parts that are taken\nunchanged from Debian's packages.\n\n" + strings.Join(p.licences, "")
}

// finish writes the lists, and then the checksums of everything.
func (p *publication) finish() error {
	pins, err := readPins()
	if err != nil {
		return err
	}
	pins = slices.DeleteFunc(pins, func(q pin) bool {
		return !slices.ContainsFunc(q.For, func(a string) bool { return slices.Contains(p.o.archs, a) })
	})
	base := "holdfast-" + p.o.version
	sources, err := readSources(pins)
	if err != nil {
		return err
	}
	if err := p.text(base+".sources.txt", sourceList(p.o.version, pins, sources)); err != nil {
		return err
	}
	if err := p.text(base+".firmware.txt", strings.Join(p.firmwork, "")); err != nil {
		return err
	}
	if err := p.text(base+".licences.txt", p.licenceText()); err != nil {
		return err
	}
	bom, err := billOfMaterials(p.o, pins)
	if err != nil {
		return err
	}
	if err := p.text(base+".spdx.json", string(bom)); err != nil {
		return err
	}
	if err := p.text("UNSIGNED.sha256", strings.Join(p.bare, "")); err != nil {
		return err
	}
	slices.Sort(p.files)
	var sums bytes.Buffer
	for _, name := range p.files {
		sum, size, err := sumFile(filepath.Join(p.o.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
		say("%9.1f MB  %s", float64(size)/1e6, name)
	}
	if err := p.text("SHA256SUMS", sums.String()); err != nil {
		return err
	}
	if p.keys.signer == nil {
		return nil
	}
	sig := ed25519.Sign(p.keys.signer, sums.Bytes())
	return p.text("SHA256SUMS.sig", string(sig))
}

func sumFile(name string) (sum string, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

func sourceList(version string, pins []pin, sources []sourcePin) string {
	var b strings.Builder
	fmt.Fprintf(&b, `Sources of the disk images of Holdfast %s

Holdfast itself is licensed under the EUPL-1.2. The works built into it are listed in
NOTICES.txt of its source, with their licences; Element Call, which is served beside it,
is licensed under the AGPL-3.0.

The images contain works of others, as Debian built them and unchanged, among them Linux
(GPL-2.0), systemd-boot (LGPL-2.1 or later) and, for the Raspberry Pi, U-Boot (GPL-2.0).
Their complete corresponding source is in these source packages of Debian %s:

`, version, suite)
	for _, s := range sources {
		name, v, _ := strings.Cut(s.Source, " ")
		fmt.Fprintf(&b, "  %s\n    %s\n", s.Source, debianSnapshot.page(name, v))
		for _, f := range s.Files {
			fmt.Fprintf(&b, "    %s  %s\n", f.SHA256, f.Name)
		}
	}
	b.WriteString(`
The addresses are those of Debian's archive of old packages, which keeps every version; the
current ones are in Debian's archive ("apt-get source NAME=VERSION"), too. The numbers are
SHA-256. "make image-sources" in Holdfast's source fetches exactly these files into one
folder, which publishers should keep beside the images.

Offer: who gives you one of these images must give you that source, too, on a medium
customary for software interchange, for at least three years after the last time and for no
more than the cost of doing so. Ask whoever you have the image from.

The packages that the files were taken from:

`)
	for _, p := range pins {
		fmt.Fprintf(&b, "  %s %s %s (%s)\n    SHA-256 %s\n", p.Name, p.Version, p.Arch, p.Component, p.SHA256)
	}
	return b.String()
}

// --- bill of materials. Source: SPDX 2.3, JSON schema.

type spdxPackage struct {
	ID        string    `json:"SPDXID"`
	Name      string    `json:"name"`
	Version   string    `json:"versionInfo,omitempty"`
	Download  string    `json:"downloadLocation"`
	Analyzed  bool      `json:"filesAnalyzed"`
	Concluded string    `json:"licenseConcluded"`
	Declared  string    `json:"licenseDeclared"`
	Copyright string    `json:"copyrightText"`
	Comment   string    `json:"comment,omitempty"`
	Sums      []spdxSum `json:"checksums,omitempty"`
	External  []spdxRef `json:"externalRefs,omitempty"`
	Purpose   string    `json:"primaryPackagePurpose,omitempty"`
}

type spdxSum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelation struct {
	From string `json:"spdxElementId"`
	Kind string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const (
	noAssertion = "NOASSERTION"
	spdxRoot    = "SPDXRef-Holdfast"
)

var (
	noticeLine = regexp.MustCompile(`(?m)^  (\S+) (\S+): (.+)$`)
	spdxLetter = regexp.MustCompile(`[^A-Za-z0-9.-]+`)
	spdxExpr   = regexp.MustCompile(`^[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*$`)
)

// debianLicence is the licence of the files that are taken from a package. Firmware
// has many, which the published text of licences holds.
func debianLicence(name string) string {
	switch {
	case strings.HasPrefix(name, "linux-image-"):
		return "GPL-2.0-only WITH Linux-syscall-note"
	case name == "systemd-boot-efi":
		return "LGPL-2.1-or-later"
	case name == "u-boot-rpi":
		return "GPL-2.0-or-later"
	}
	return ""
}

func purl(kind, name, version, more string) []spdxRef {
	return []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:" + kind + "/" + name + "@" + strings.ReplaceAll(version, "+", "%2B") + more}}
}

// billOfMaterials lists what the images are made of: the program's Go modules as the
// program itself names them, what its notices list besides, and Debian's packages.
func billOfMaterials(o options, pins []pin) ([]byte, error) {
	text, err := os.ReadFile(o.lists)
	if err != nil {
		return nil, err
	}
	licences := map[string]string{}
	var notices [][]string
	for _, m := range noticeLine.FindAllStringSubmatch(string(text), -1) {
		notices = append(notices, m)
		licences[m[1]] = m[3]
	}
	if len(notices) == 0 {
		return nil, fmt.Errorf("%s lists nothing; run: make notices", o.lists)
	}
	seen := map[string]bool{}
	var list []spdxPackage
	add := func(p spdxPackage, kind string) {
		p.ID = "SPDXRef-" + kind + "-" + spdxLetter.ReplaceAllString(strings.ReplaceAll(p.Name, "/", "-")+"-"+p.Version, ".")
		p.Download, p.Concluded, p.Copyright = noAssertion, noAssertion, noAssertion
		p.Declared = cmp.Or(p.Declared, noAssertion)
		if !spdxExpr.MatchString(p.Declared) {
			p.Comment = strings.TrimSpace(p.Comment + " Licence: " + p.Declared)
			p.Declared = noAssertion
		}
		if !seen[p.ID] {
			seen[p.ID] = true
			list = append(list, p)
		}
	}
	goNames := map[string]bool{}
	for _, arch := range o.archs {
		info, err := buildinfo.ReadFile(strings.ReplaceAll(o.binaries, "%s", arch))
		if err != nil {
			return nil, err
		}
		add(spdxPackage{Name: "Go", Version: info.GoVersion, Declared: "BSD-3-Clause", Comment: "Standard library and runtime.", External: purl("golang", "std", strings.TrimPrefix(info.GoVersion, "go"), "")}, "Go")
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			goNames[m.Path] = true
			add(spdxPackage{Name: m.Path, Version: m.Version, Declared: licences[m.Path], External: purl("golang", m.Path, m.Version, "")}, "Go")
		}
	}
	for _, m := range notices {
		if !goNames[m[1]] {
			add(spdxPackage{Name: m[1], Version: m[2], Declared: m[3], External: purl("npm", strings.Replace(m[1], "@", "%40", 1), m[2], "")}, "npm")
		}
	}
	for _, p := range pins {
		add(spdxPackage{
			Name: p.Name, Version: p.Version, Declared: debianLicence(p.Name), Sums: []spdxSum{{"SHA256", p.SHA256}},
			Comment:  "Debian " + suite + " " + p.Component + ", built from " + strings.Join(append([]string{p.Source}, p.BuiltUsing...), ", ") + ". Files of it are in the image, unchanged.",
			External: purl("deb/debian", p.Name, p.Version, "?arch="+p.Arch+"&distro="+suite),
		}, "deb-"+p.Arch)
	}
	slices.SortFunc(list, func(a, b spdxPackage) int { return cmp.Compare(a.ID, b.ID) })
	root := spdxPackage{
		ID: spdxRoot, Name: "holdfast", Version: o.version, Download: noAssertion, Concluded: "EUPL-1.2", Declared: "EUPL-1.2",
		Copyright: noAssertion, Purpose: "OPERATING-SYSTEM",
	}
	relations := []spdxRelation{{"SPDXRef-DOCUMENT", "DESCRIBES", spdxRoot}}
	for _, p := range list {
		relations = append(relations, spdxRelation{spdxRoot, "CONTAINS", p.ID})
	}
	packages := append([]spdxPackage{root}, list...)
	inner, err := json.Marshal(packages)
	if err != nil {
		return nil, err
	}
	doc := struct {
		Version   string `json:"spdxVersion"`
		Licence   string `json:"dataLicense"`
		ID        string `json:"SPDXID"`
		Name      string `json:"name"`
		Namespace string `json:"documentNamespace"`
		Creation  any    `json:"creationInfo"`
		Packages  any    `json:"packages"`
		Relations any    `json:"relationships"`
	}{
		"SPDX-2.3", "CC0-1.0", "SPDXRef-DOCUMENT", "holdfast-" + o.version,
		// A name that follows from the content, so that it is the same each time.
		fmt.Sprintf("urn:sha256:%x", sha256.Sum256(inner)),
		map[string]any{"created": o.created.Format("2006-01-02T15:04:05Z"), "creators": []string{"Tool: holdfast-image-build"}},
		packages, relations,
	}
	out, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}
