package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
)

// rootFS is what the initial RAM file system contains: a file, link, folder or
// device by its path without the slash at its beginning.
type rootFS map[string]entry

type entry struct {
	mode         fs.FileMode
	data         []byte // a link's target, too
	major, minor int
}

func (r rootFS) file(name string, data []byte, mode fs.FileMode) {
	r[name] = entry{mode: mode, data: data}
}
func (r rootFS) link(name, target string) {
	r[name] = entry{mode: fs.ModeSymlink | 0o777, data: []byte(target)}
}
func (r rootFS) folder(name string, mode fs.FileMode) { r[name] = entry{mode: fs.ModeDir | mode} }

// cpio writes the archive that the kernel unpacks, sorted by path, with the folders
// that are not named themselves.
// Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
func (r rootFS) cpio() []byte {
	all := maps.Clone(r)
	for name := range r {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = entry{mode: fs.ModeDir | 0o755}
			}
		}
	}
	var b bytes.Buffer
	put := func(n int, name string, mode uint32, e entry) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			n, mode, 0, 0, 1, 0, len(e.data), 0, 0, e.major, e.minor, len(name)+1, 0, name)
		pad(&b)
		b.Write(e.data)
		pad(&b)
	}
	for i, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name]
		mode := uint32(e.mode.Perm())
		switch e.mode.Type() {
		case fs.ModeDir:
			mode |= 0o040000
		case fs.ModeSymlink:
			mode |= 0o120000
		case fs.ModeDevice | fs.ModeCharDevice:
			mode |= 0o020000
		default:
			mode |= 0o100000
		}
		put(i+1, name, mode, e)
	}
	put(0, "TRAILER!!!", 0, entry{})
	return b.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
