// Package blob keeps files by the SHA-256 of their content, for media and other
// large data that has no place in the database.
//
// Invariants: a file that Put returned is complete and on disk (its data and its
// folder entry are fsynced); a file never changes; equal contents are one file;
// what a crash leaves behind is only a temporary file, removed at the next Open.
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
type Store struct{ dir string }

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
	return &Store{dir}, errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

// Put stores what r gives, at most max bytes. Errors: ErrTooLarge, the reader's,
// the disk's, and ctx's; nothing is kept then.
func (s *Store) Put(ctx context.Context, r io.Reader, max int64) (Ref, error) {
	name := filepath.Join(s.dir, tmpDir, rand.Text())
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Ref{}, err
	}
	defer os.Remove(name) // fails once the file is renamed
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(ctxReader{ctx, r}, max+1))
	if err != nil {
		return Ref{}, err
	}
	if n > max {
		return Ref{}, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max)
	}
	if err := f.Sync(); err != nil {
		return Ref{}, err
	}
	if err := f.Close(); err != nil {
		return Ref{}, err
	}
	ref := Ref{hex.EncodeToString(sum.Sum(nil)), n}
	path, err := s.path(ref.Hash)
	if err != nil {
		return Ref{}, err
	}
	if err := os.Rename(name, path); err != nil {
		return Ref{}, err
	}
	return ref, syncDir(filepath.Dir(path))
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

// Delete removes a blob; one that is not there is no error. The caller makes sure
// that nothing names it any more.
func (s *Store) Delete(hash string) error {
	path, err := s.path(hash)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
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
