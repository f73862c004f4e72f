// Package hardware finds the driver of each device: an index of the kernel's
// modules that is made when the image is built, loading of modules by the names
// that devices give themselves, and a report of what has no driver.
//
// Invariants: the index of the same modules is the same, byte for byte; a module is
// loaded after all that it needs; nothing but the folder of the running kernel's
// modules is ever loaded from; a report only reads.
package hardware

import (
	"bufio"
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// IndexName is the index's file name, beside the folder "kernel" of the modules.
const IndexName = "holdfast.index"

const (
	indexHead = "holdfast modules 1"
	maxIndex  = 32 << 20
	maxLine   = 1 << 20
)

// ErrIndex means that a text is not an index of modules.
var ErrIndex = errors.New("hardware: this is not an index of modules")

// module is one loadable module. Its names have "_" where file names may have "-".
type module struct {
	path string   // below the folder of the modules
	deps []string // must be there before
	pre  []string // are wanted before, where there are such
	post []string // are wanted after
}

type alias struct{ pattern, module string }

// Index says which modules there are and which devices they are for.
type Index struct {
	modules  map[string]*module
	builtin  map[string]bool
	aliases  map[string][]alias // by the pattern's bus; "" where that has a wildcard
	firmware map[string][]string
}

func newIndex() *Index {
	return &Index{modules: map[string]*module{}, builtin: map[string]bool{}, aliases: map[string][]alias{}, firmware: map[string][]string{}}
}

// normal is a module's name or an alias as they are compared: "-" and "_" are the
// same, but not in the sets of letters that a pattern may have.
func normal(name string) string {
	set := false
	return strings.Map(func(r rune) rune {
		switch r {
		case '[':
			set = true
		case ']':
			set = false
		case '-':
			if !set {
				return '_'
			}
		}
		return r
	}, name)
}

func nameOf(file string) string { return normal(strings.TrimSuffix(path.Base(file), ".ko")) }

// BuildIndex reads the modules below a folder such as lib/modules/6.1.0-56-amd64
// and returns their index. Modules must not be compressed. It is an error if one
// needs another that is not there.
func BuildIndex(modules fs.FS) ([]byte, error) {
	var lines []string
	have := map[string]string{}
	needs := map[string][]string{}
	err := fs.WalkDir(modules, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		for _, ext := range []string{".ko.xz", ".ko.zst", ".ko.gz"} {
			if strings.HasSuffix(p, ext) {
				return fmt.Errorf("hardware: %s is compressed; the image needs it plain", p)
			}
		}
		if !strings.HasSuffix(p, ".ko") {
			return nil
		}
		name := nameOf(p)
		if other, twice := have[name]; twice {
			return fmt.Errorf("hardware: %s and %s are the same module", other, p)
		}
		have[name] = p
		info, err := modInfo(modules, p)
		if err != nil {
			return fmt.Errorf("hardware: %s: %w", p, err)
		}
		lines = append(lines, "module "+name+" "+p)
		for _, kv := range info {
			line, deps := infoLine(name, kv[0], kv[1])
			needs[name] = append(needs[name], deps...)
			if line != "" {
				lines = append(lines, line)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	built, err := builtinLines(modules)
	if err != nil {
		return nil, err
	}
	lines = append(lines, built...)
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		for _, dep := range needs[name] {
			if _, ok := have[dep]; !ok && !slices.Contains(built, "builtin "+dep) {
				return nil, fmt.Errorf("hardware: %s needs the module %s, which is not there", have[name], dep)
			}
		}
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	return []byte(indexHead + "\n" + strings.Join(lines, "\n") + "\n"), nil
}

// infoLine is one field of a module's information as a line of the index, "" where
// the index has no use for it. deps are the modules that the field asks for.
func infoLine(name, key, value string) (line string, deps []string) {
	switch key {
	case "alias":
		return "alias " + normal(value) + " " + name, nil
	case "firmware":
		return "firmware " + name + " " + value, nil
	case "depends":
		for dep := range strings.SplitSeq(value, ",") {
			if dep != "" {
				deps = append(deps, normal(dep))
			}
		}
		if len(deps) == 0 {
			return "", nil
		}
		return "depends " + name + " " + strings.Join(deps, " "), deps
	case "softdep":
		var out []string
		for _, word := range strings.Fields(value) {
			if word != "pre:" && word != "post:" {
				word = normal(word)
			}
			out = append(out, word)
		}
		return "softdep " + name + " " + strings.Join(out, " "), nil
	}
	return "", nil
}

// modInfo is the section .modinfo of a module: strings "key=value" with a zero after
// each.
func modInfo(fsys fs.FS, p string) (out [][2]string, err error) {
	b, err := fs.ReadFile(fsys, p)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("this is not a kernel module: it has no section .modinfo")
	}
	data, err := s.Data()
	if err != nil {
		return nil, err
	}
	for kv := range bytes.SplitSeq(data, []byte{0}) {
		if k, v, ok := strings.Cut(string(kv), "="); ok && !strings.ContainsAny(v, "\n") {
			out = append(out, [2]string{k, v})
		}
	}
	return out, nil
}

// builtinLines are what the kernel itself holds: modules.builtin has their paths,
// modules.builtin.modinfo their information.
func builtinLines(fsys fs.FS) (lines []string, err error) {
	b, err := fs.ReadFile(fsys, "modules.builtin")
	if err != nil {
		return nil, fmt.Errorf("hardware: the list of what is built into the kernel: %w", err)
	}
	for p := range strings.Lines(string(b)) {
		if p = strings.TrimSpace(p); p != "" {
			lines = append(lines, "builtin "+nameOf(p))
		}
	}
	b, err = fs.ReadFile(fsys, "modules.builtin.modinfo")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for field := range bytes.SplitSeq(b, []byte{0}) {
		name, kv, _ := strings.Cut(string(field), ".")
		if key, value, ok := strings.Cut(kv, "="); ok && key == "alias" && !strings.Contains(value, "\n") {
			lines = append(lines, "alias "+normal(value)+" "+normal(name))
		}
	}
	return lines, nil
}

// ReadIndex reads an index that BuildIndex made. Errors: ErrIndex.
func ReadIndex(r io.Reader) (*Index, error) {
	x := newIndex()
	s := bufio.NewScanner(io.LimitReader(r, maxIndex))
	s.Buffer(nil, maxLine)
	if !s.Scan() || s.Text() != indexHead {
		return nil, ErrIndex
	}
	for s.Scan() {
		if err := x.line(s.Text()); err != nil {
			return nil, err
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIndex, err)
	}
	for name, m := range x.modules {
		if m.path == "" || !fs.ValidPath(m.path) {
			return nil, fmt.Errorf("%w: the module %q has no file", ErrIndex, name)
		}
	}
	x.sort()
	return x, x.breakCircles()
}

// breakCircles takes out wishes that lead back to the module that has them. Needs
// that do are an error, as the kernel could never load such modules.
func (x *Index) breakCircles() error {
	const open, done = 1, 2
	state := map[string]int{}
	var visit func(name string) error
	visit = func(name string) error {
		m := x.modules[name]
		if m == nil || state[name] == done {
			return nil
		}
		state[name] = open
		for _, dep := range m.deps {
			if state[dep] == open {
				return fmt.Errorf("%w: %s and %s need each other", ErrIndex, name, dep)
			}
			if err := visit(dep); err != nil {
				return err
			}
		}
		var pre []string
		for _, want := range m.pre {
			circle := false
			for _, n := range x.resolve(want) {
				if state[n] == open {
					circle = true
				} else if err := visit(n); err != nil {
					return err
				}
			}
			if !circle {
				pre = append(pre, want)
			}
		}
		m.pre = pre
		state[name] = done
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(x.modules)) {
		if err := visit(name); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) module(name string) *module {
	m := x.modules[name]
	if m == nil {
		m = &module{}
		x.modules[name] = m
	}
	return m
}

func (x *Index) line(line string) error {
	kind, rest, _ := strings.Cut(line, " ")
	if rest == "" {
		return fmt.Errorf("%w: the line %.80q", ErrIndex, line)
	}
	if kind == "alias" { // a pattern may hold blanks, a name does not
		i := strings.LastIndexByte(rest, ' ')
		if i < 1 {
			return fmt.Errorf("%w: the line %.80q", ErrIndex, line)
		}
		x.addAlias(rest[:i], rest[i+1:])
		return nil
	}
	name, value, _ := strings.Cut(rest, " ")
	switch kind {
	case "module":
		x.module(name).path = value
	case "builtin":
		x.builtin[name] = true
	case "depends":
		x.module(name).deps = strings.Fields(value)
	case "firmware":
		x.firmware[name] = append(x.firmware[name], value)
	case "softdep":
		m := x.module(name)
		var list *[]string
		for _, word := range strings.Fields(value) {
			switch {
			case word == "pre:":
				list = &m.pre
			case word == "post:":
				list = &m.post
			case list != nil:
				*list = append(*list, word)
			}
		}
	default:
		return fmt.Errorf("%w: the line %.80q", ErrIndex, line)
	}
	return nil
}

func (x *Index) addAlias(pattern, module string) {
	bus := busOf(pattern)
	if strings.ContainsAny(bus, "*?[") {
		bus = ""
	}
	x.aliases[bus] = append(x.aliases[bus], alias{pattern, module})
}

// busOf is what stands before the colon of a device's name; a name of something
// that is no device ("fs-vfat") has none.
func busOf(s string) string {
	if i := strings.IndexByte(s, ':'); i >= 0 {
		return s[:i]
	}
	return ""
}

func (x *Index) sort() {
	for _, list := range x.aliases {
		slices.SortFunc(list, func(a, b alias) int {
			return cmp.Or(strings.Compare(a.module, b.module), strings.Compare(a.pattern, b.pattern))
		})
	}
}

// Match lists the modules for a device's name or for any other alias, sorted.
// Modules that the kernel holds are among them.
func (x *Index) Match(name string) (list []string) {
	name = normal(name)
	for _, bus := range []string{busOf(name), ""} {
		for _, a := range x.aliases[bus] {
			if matches(a.pattern, name) {
				list = append(list, a.module)
			}
		}
		if bus == "" {
			break
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Builtin reports whether the kernel itself holds a module.
func (x *Index) Builtin(name string) bool { return x.builtin[normal(name)] }

// resolve turns a name or alias into modules.
func (x *Index) resolve(name string) []string {
	n := normal(name)
	if x.modules[n] != nil || x.builtin[n] {
		return []string{n}
	}
	return x.Match(name)
}

// matches is the kernel's matching of device names: * is any text, ? any letter,
// [a-c] one of some.
func matches(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, mark = p, i
				p++
				continue
			}
			if n, ok := matchOne(pattern[p:], s[i]); ok {
				p, i = p+n, i+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		// Let the last star take one letter more.
		mark++
		p, i = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne compares one letter, and returns the length of what it was compared with.
func matchOne(pattern string, c byte) (int, bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		end := strings.IndexByte(pattern, ']')
		if end < 0 {
			break
		}
		set := pattern[1:end]
		for i := 0; i < len(set); i++ {
			lo, hi := set[i], set[i]
			if i+2 < len(set) && set[i+1] == '-' {
				hi = set[i+2]
				i += 2
			}
			if lo <= c && c <= hi {
				return end + 1, true
			}
		}
		return 0, false
	}
	return 1, pattern[0] == c
}
