package house

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// component is something of others that is built into the program.
type component struct {
	name, version, licence string
	texts                  []string // licence and notice files
}

func (c component) line() string { return fmt.Sprintf("%s %s: %s", c.name, c.version, c.licence) }

// The list at the top of NOTICES.txt must be what is linked and bundled. With
// -update the licence texts are collected, too; they need the module cache and
// web/ui/node_modules.
func TestNotices(t *testing.T) {
	const name = "NOTICES.txt"
	all := append(append(goComponents(t), npmComponents(t)...), component{name: "zxcvbn, its list of common passwords", version: "4.4.2", licence: "MIT", texts: licenceFiles(filepath.Join(root, "identity/guess"))})
	var list strings.Builder
	list.WriteString(noticesHead)
	for _, c := range all {
		if c.licence == "" {
			t.Errorf("%s %s: no licence was found", c.name, c.version)
		}
		list.WriteString("  " + c.line() + "\n")
	}
	if *update {
		golden(t, name, list.String()+"\n"+licenceTexts(t, all), "")
		return
	}
	have, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(have), list.String()+"\n") {
		t.Errorf("%s does not list what is built in; run: make notices", name)
	}
}

const noticesHead = `Holdfast is licensed under the EUPL-1.2; see LICENSE.

It is built with the works of others that are listed here, each under its own
licence. Their texts follow the list. Written by: make notices

Element Call (@element-hq/element-call-embedded) is licensed under the AGPL-3.0. It
is served unmodified, as its own static files, beside the user interface; its source
is at https://github.com/element-hq/element-call

`

func goComponents(t *testing.T) (out []component) {
	cmd := exec.Command("go", "list", "-deps", "-json=Module,Standard", "./cmd/holdfast")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	b, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(bytes.NewReader(b)); dec.More(); {
		var p struct {
			Standard bool
			Module   *struct {
				Path, Version, Dir string
				Main               bool
			}
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if p.Module == nil || p.Module.Main || seen[p.Module.Path] {
			continue
		}
		seen[p.Module.Path] = true
		c := component{name: p.Module.Path, version: p.Module.Version, texts: licenceFiles(p.Module.Dir)}
		c.licence = classify(c.texts)
		out = append(out, c)
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	std := component{name: "Go standard library and runtime", version: "(the compiler's)", texts: licenceFiles(strings.TrimSpace(string(goroot)))}
	if std.licence = classify(std.texts); std.licence == "" {
		std.licence = "BSD-3-Clause" // some distributions keep the text elsewhere
	}
	slices.SortFunc(out, func(a, b component) int { return strings.Compare(a.name, b.name) })
	return append([]component{std}, out...)
}

// licenceFiles reads the licence and notice files of a folder.
func licenceFiles(dir string) (out []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		n := strings.ToUpper(e.Name())
		if e.IsDir() || strings.HasSuffix(n, ".GO") {
			continue
		}
		if strings.Contains(n, "COMMERCIAL") {
			continue // an alternative that is not used
		}
		for _, p := range []string{"LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"} {
			if strings.HasPrefix(n, p) {
				if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
					out = append(out, strings.TrimSpace(strings.ReplaceAll(string(b), "\r\n", "\n")))
				}
				break
			}
		}
	}
	return out
}

// classify names the licences of texts by sentences that only they have.
func classify(texts []string) string {
	var found []string
	add := func(id string) {
		if !slices.Contains(found, id) {
			found = append(found, id)
		}
	}
	for _, t := range texts {
		s := strings.Join(strings.Fields(t), " ")
		has := func(sub string) bool { return strings.Contains(s, sub) }
		if has("Apache License") && has("Version 2.0") {
			add("Apache-2.0")
		}
		if has("Permission is hereby granted, free of charge") || has("Permission is hereby granted, without written agreement") {
			add("MIT")
		}
		if has("Redistribution and use in source and binary forms") {
			if has("Neither the name") || has("may not be used to endorse") || has("The names of its contributors") {
				add("BSD-3-Clause")
			} else {
				add("BSD-2-Clause")
			}
		}
		if has("Mozilla Public License") && has("2.0") {
			add("MPL-2.0")
		}
		if has("Permission to use, copy, modify, and/or distribute this software for any purpose") || has("Permission to use, copy, modify, and distribute this software for any purpose") {
			add("ISC")
		}
		if has("This is free and unencumbered software released into the public domain") {
			add("Unlicense")
		}
		if has("GNU AFFERO GENERAL PUBLIC LICENSE") {
			add("AGPL-3.0")
		}
		if has("CC0 1.0 Universal") {
			add("CC0-1.0")
		}
	}
	slices.Sort(found)
	return strings.Join(found, " AND ")
}

// npmComponents are the packages that the user interface is bundled from.
func npmComponents(t *testing.T) (out []component) {
	const ui = "web/ui"
	b, err := os.ReadFile(filepath.Join(root, ui, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages map[string]struct {
			Version, License string
			Dev, Optional    bool
			DevOptional      bool `json:"devOptional"`
		}
	}
	if err := json.Unmarshal(b, &lock); err != nil {
		t.Fatal(err)
	}
	for path, p := range lock.Packages {
		if path == "" {
			continue
		}
		name := path[strings.LastIndex(path, "node_modules/")+len("node_modules/"):]
		if (p.Dev || p.DevOptional) && name != "@element-hq/element-call-embedded" {
			continue
		}
		if name == "@element-hq/element-call-embedded" && p.License == "" {
			p.License = "AGPL-3.0-only" // its package.json names none; its repository's LICENSE-AGPL-3.0 does
		}
		out = append(out, component{name, p.Version, p.License, licenceFiles(filepath.Join(root, ui, path))})
	}
	slices.SortFunc(out, func(a, b component) int { return strings.Compare(a.line(), b.line()) })
	return slices.CompactFunc(out, func(a, b component) bool { return a.line() == b.line() })
}

// licenceTexts writes each text once, with the names of what it belongs to.
func licenceTexts(t *testing.T, all []component) string {
	type text struct {
		body  string
		names []string
	}
	var texts []*text
	byHash := map[[32]byte]*text{}
	for _, c := range all {
		if len(c.texts) == 0 && c.name != "Go standard library and runtime" {
			t.Logf("%s %s has no licence file; only its name for the licence (%s) is listed", c.name, c.version, c.licence)
		}
		for _, body := range c.texts {
			h := sha256.Sum256([]byte(strings.Join(strings.Fields(body), " ")))
			if byHash[h] == nil {
				byHash[h] = &text{body: body}
				texts = append(texts, byHash[h])
			}
			if !slices.Contains(byHash[h].names, c.name) {
				byHash[h].names = append(byHash[h].names, c.name)
			}
		}
	}
	var b strings.Builder
	for _, x := range texts {
		fmt.Fprintf(&b, "%s\n%s\n\n%s\n\n", strings.Repeat("=", 78), strings.Join(x.names, ", "), x.body)
	}
	return b.String()
}
