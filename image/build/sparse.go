package main

import (
	"errors"
	"io"
	"maps"
	"slices"
)

// chunkBytes is how a disk is cut: a cluster of qcow2, a grain of VMDK.
const chunkBytes = 64 << 10

// sparse is a disk of which only what was written is held. All else is zeros.
type sparse struct {
	size   int64
	chunks map[int64][]byte
}

func newSparse(size int64) *sparse { return &sparse{size, map[int64][]byte{}} }

func (s *sparse) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > s.size {
		return 0, errors.New("that is outside the disk")
	}
	n := len(p)
	for len(p) > 0 {
		c := s.chunks[at/chunkBytes]
		if c == nil {
			c = make([]byte, chunkBytes)
			s.chunks[at/chunkBytes] = c
		}
		k := copy(c[at%chunkBytes:], p)
		p, at = p[k:], at+int64(k)
	}
	return n, nil
}

// used are the chunks that are not zeros, in order.
func (s *sparse) used() []int64 {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.chunks)), func(i int64) bool {
		return !slices.ContainsFunc(s.chunks[i], func(b byte) bool { return b != 0 })
	})
}

// reader gives the whole disk, zeros included.
func (s *sparse) reader() io.Reader { return &sparseReader{s: s} }

type sparseReader struct {
	s  *sparse
	at int64
}

func (r *sparseReader) Read(p []byte) (int, error) {
	if r.at >= r.s.size {
		return 0, io.EOF
	}
	in := r.at % chunkBytes
	n := int(min(int64(len(p)), chunkBytes-in, r.s.size-r.at))
	if c := r.s.chunks[r.at/chunkBytes]; c != nil {
		copy(p[:n], c[in:])
	} else {
		clear(p[:n])
	}
	r.at += int64(n)
	return n, nil
}
