package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// snapshot is the archive that keeps every package that Debian ever served, found by
// exact versions. "" is none. Source: the machine-readable interface that it describes
// itself (mr/package/NAME/VERSION/srcfiles, mr/binary/NAME/VERSION/binfiles, file/SHA1).
type snapshot string

const debianSnapshot snapshot = "https://snapshot.debian.org"

// largestAnswer is more than the description of a package's files has.
const largestAnswer = 4 << 20

// page is where people find a source package.
func (s snapshot) page(name, version string) string {
	base := s
	if base == "" {
		base = debianSnapshot
	}
	return fmt.Sprintf("%s/package/%s/%s/", base, url.PathEscape(name), url.PathEscape(version))
}

// source fetches a file of a source package into a folder.
func (s snapshot) source(ctx context.Context, name, version string, f sourceFile, dir string) error {
	return s.fetch(ctx, fmt.Sprintf("/mr/package/%s/%s/srcfiles", url.PathEscape(name), url.PathEscape(version)), f.Name, f.Size, f.SHA256, filepath.Join(dir, f.Name))
}

// binary fetches a package.
func (s snapshot) binary(ctx context.Context, p pin, path string) error {
	return s.fetch(ctx, fmt.Sprintf("/mr/binary/%s/%s/binfiles", url.PathEscape(p.Name), url.PathEscape(p.Version)), p.archiveName(), p.Size, p.SHA256, path)
}

// fetch gets the file of a name among those that a page of the interface lists. What
// it is taken for is decided by the pinned SHA-256 alone.
func (s snapshot) fetch(ctx context.Context, list, name string, size int64, sum, path string) error {
	if s == "" {
		return errors.New("no archive of old packages is asked")
	}
	body, err := s.get(ctx, list+"?fileinfo=1")
	if err != nil {
		return err
	}
	defer body.Close()
	var info struct {
		Files map[string][]struct{ Name string } `json:"fileinfo"`
	}
	if err := json.NewDecoder(io.LimitReader(body, largestAnswer)).Decode(&info); err != nil {
		return fmt.Errorf("%s%s: %w", s, list, err)
	}
	for hash, names := range info.Files {
		for _, n := range names {
			if n.Name == name {
				return s.save(ctx, hash, size, sum, path)
			}
		}
	}
	return fmt.Errorf("%s%s lists no %s", s, list, name)
}

// save writes a file that is found by its SHA-1. It has its name only once it is
// whole and what is wanted.
func (s snapshot) save(ctx context.Context, hash string, size int64, sum, path string) error {
	body, err := s.get(ctx, "/file/"+url.PathEscape(hash))
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.CreateTemp(filepath.Dir(path), ".get-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(body, size+1))
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != size || got != sum {
		return fmt.Errorf("%s/file/%s is not %s with the SHA-256 %s", s, hash, filepath.Base(path), sum)
	}
	return os.Rename(f.Name(), path)
}

var snapshotClient = &http.Client{Transport: &http.Transport{
	Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: time.Minute}}

func (s snapshot) get(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(s)+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := snapshotClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s%s: %s", s, path, resp.Status)
	}
	return resp.Body, nil
}
