// Package blob keeps files by the SHA-256 of their content, for media and other
// large data that has no place in the database.
//
// Invariants: a file that Put returned is complete and on disk (its data and its
// folder entry are fsynced); a file never changes; equal contents are one file;
// what a crash leaves behind is a temporary file, removed at the next Open, or a
// whole file that nothing names yet, which Each finds; Remove never takes a file
// away from somebody who has just put the same content.
package blob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

var (
	// ErrTooLarge means that the content is longer than the given maximum.
	ErrTooLarge = errors.New("blob: content is too large")
	// ErrNotFound means that there is no blob of that hash.
	ErrNotFound = errors.New("blob: not found")
	// ErrBadHash means that a hash is not 64 lower-case hexadecimal digits.
	ErrBadHash = errors.New("blob: malformed hash")
)

// Ref names stored content.
type Ref struct {
	Hash string // SHA-256, 64 lower-case hexadecimal digits
	Size int64  // bytes
}

// Store is a folder of blobs. Its methods are safe for concurrent use.
type Store struct {
	dir string

	mu       sync.Mutex
	held     map[string]int           // by hash: how many have put it and not released it
	removing map[string]chan struct{} // by hash: closed when Remove is done with it
}

const tmpDir = "tmp"

// Open opens the folder, made if missing, and clears what a crash left half done.
func Open(dir string) (*Store, error) {
	tmp := filepath.Join(dir, tmpDir)
	if err := os.RemoveAll(tmp); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return nil, err
	}
	for i := range 256 { // made ahead, so that Put has one folder entry to sync
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("%02x", i)), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return &Store{dir: dir, held: map[string]int{}, removing: map[string]chan struct{}{}}, errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

// Put stores what r gives, at most max bytes. The blob is held until release is
// called, which is once what names it is on disk: Remove leaves it alone until then.
// Errors: ErrTooLarge, the reader's, the disk's, and ctx's; nothing is kept then, and
// release is nil.
func (s *Store) Put(ctx context.Context, r io.Reader, max int64) (ref Ref, release func(), err error) {
	name := filepath.Join(s.dir, tmpDir, rand.Text())
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Ref{}, nil, err
	}
	defer os.Remove(name) // fails once the file is renamed
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(ctxReader{ctx, r}, max+1))
	if err != nil {
		return Ref{}, nil, err
	}
	if n > max {
		return Ref{}, nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max)
	}
	if err := f.Sync(); err != nil {
		return Ref{}, nil, err
	}
	if err := f.Close(); err != nil {
		return Ref{}, nil, err
	}
	ref = Ref{hex.EncodeToString(sum.Sum(nil)), n}
	path, err := s.path(ref.Hash)
	if err != nil {
		return Ref{}, nil, err
	}
	release = s.hold(ref.Hash)
	err = os.Rename(name, path)
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		release()
		return Ref{}, nil, err
	}
	return ref, release, nil
}

// hold keeps a hash from being removed until the function it returns is called.
func (s *Store) hold(hash string) (release func()) {
	s.mu.Lock()
	for s.removing[hash] != nil {
		done := s.removing[hash]
		s.mu.Unlock()
		<-done
		s.mu.Lock()
	}
	s.held[hash]++
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.held[hash]--; s.held[hash] == 0 {
			delete(s.held, hash)
		}
	})
}

// Open opens a blob for reading. Errors: ErrNotFound, ErrBadHash.
func (s *Store) Open(hash string) (*os.File, error) {
	path, err := s.path(hash)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, hash)
	}
	return f, err
}

// Remove removes a blob unless it is held or used reports that something names it,
// and tells how many bytes that freed. used is asked while nobody else can put the
// same content: who comes then waits, and puts it anew. A blob that is not there is
// no error.
func (s *Store) Remove(hash string, used func() (bool, error)) (freed int64, err error) {
	path, err := s.path(hash)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	if s.held[hash] > 0 || s.removing[hash] != nil {
		s.mu.Unlock()
		return 0, nil
	}
	done := make(chan struct{})
	s.removing[hash] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.removing, hash)
		s.mu.Unlock()
		close(done)
	}()
	if keep, err := used(); err != nil || keep {
		return 0, err
	}
	fi, err := os.Lstat(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Each gives the hashes of all blobs, some hundred at a time, in no useful order. What
// is put or removed meanwhile may be among them or not.
func (s *Store) Each(f func(hashes []string) error) error {
	for i := range 256 {
		entries, err := os.ReadDir(filepath.Join(s.dir, fmt.Sprintf("%02x", i)))
		if err != nil {
			return err
		}
		for len(entries) > 0 {
			some := entries[:min(len(entries), 500)]
			entries = entries[len(some):]
			var hashes []string
			for _, e := range some {
				if path, err := s.path(e.Name()); err == nil && filepath.Base(filepath.Dir(path)) == e.Name()[:2] {
					hashes = append(hashes, e.Name())
				}
			}
			if len(hashes) > 0 {
				if err := f(hashes); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Verify reads a blob and compares it with its hash.
func (s *Store) Verify(hash string) error {
	f, err := s.Open(hash)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != hash {
		return fmt.Errorf("blob %s: the content on disk has hash %s", hash, got)
	}
	return nil
}

func (s *Store) path(hash string) (string, error) {
	if len(hash) != 64 || strings.Trim(hash, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%w: %.80q", ErrBadHash, hash)
	}
	return filepath.Join(s.dir, hash[:2], hash), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ctxReader ends a copy when its request has gone.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
