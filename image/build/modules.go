package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing/fstest"

	"holdfast/image/hardware"
)

//go:embed modules.txt
var moduleList string

// addModules puts the chosen modules of a kernel, with all that they need, and their
// index into the initial file system. tree is lib/modules/RELEASE of the package.
func addModules(root rootFS, tree, release, arch string) error {
	all, err := hardware.BuildIndex(os.DirFS(tree))
	if err != nil {
		return err
	}
	files, needs := map[string]string{}, map[string][]string{} // by the module's name
	for line := range bytes.Lines(all) {
		f := strings.Fields(string(line))
		switch f[0] {
		case "module":
			files[f[1]] = f[2]
		case "depends":
			needs[f[1]] = append(needs[f[1]], f[2:]...)
		case "softdep":
			for _, w := range f[2:] {
				if w != "pre:" && w != "post:" {
					needs[f[1]] = append(needs[f[1]], w)
				}
			}
		}
	}
	chosen, err := choose(files, arch)
	if err != nil {
		return err
	}
	for i := 0; i < len(chosen); i++ {
		for _, n := range needs[chosen[i]] {
			if files[n] != "" && !slices.Contains(chosen, n) {
				chosen = append(chosen, n)
			}
		}
	}
	into := "lib/modules/" + release + "/"
	small := fstest.MapFS{}
	add := func(p string) error {
		b, err := os.ReadFile(filepath.Join(tree, p))
		if err != nil {
			return err
		}
		small[p] = &fstest.MapFile{Data: b}
		return nil
	}
	for _, name := range chosen {
		if err := add(files[name]); err != nil {
			return err
		}
		root.file(into+files[name], small[files[name]].Data, 0o444)
	}
	for _, p := range []string{"modules.builtin", "modules.builtin.modinfo"} {
		if err := add(p); err != nil {
			return err
		}
	}
	index, err := hardware.BuildIndex(small)
	if err != nil {
		return err
	}
	root.file(into+hardware.IndexName, index, 0o444)
	return nil
}

// choose gives the names of the modules that modules.txt lists.
func choose(files map[string]string, arch string) (chosen []string, err error) {
	names := slices.Sorted(maps.Keys(files))
	for line := range strings.Lines(moduleList) {
		pattern := strings.TrimSpace(line)
		if pattern == "" || pattern[0] == '#' {
			continue
		}
		if for_, p, ok := strings.Cut(pattern, ": "); ok {
			if for_ != arch {
				continue
			}
			pattern = p
		}
		pattern = "kernel/" + pattern
		n := len(chosen)
		for _, name := range names {
			file := files[name]
			hit := strings.HasSuffix(pattern, "/") && strings.HasPrefix(file, pattern)
			if !hit {
				if hit, err = path.Match(pattern, file); err != nil {
					return nil, fmt.Errorf("modules.txt: %q: %w", pattern, err)
				}
			}
			if hit {
				chosen = append(chosen, name)
			}
		}
		if len(chosen) == n {
			return nil, fmt.Errorf("modules.txt: %q is no module of this kernel for %s", pattern, arch)
		}
	}
	slices.Sort(chosen)
	return slices.Compact(chosen), nil
}

// kernelOfTree finds the kernel's release below an unpacked package.
func kernelOfTree(dir string) (release string, err error) {
	list, err := fs.Glob(os.DirFS(dir), "lib/modules/*")
	if err != nil || len(list) != 1 {
		return "", fmt.Errorf("%d kernels are in the kernel's package", len(list))
	}
	return path.Base(list[0]), nil
}
