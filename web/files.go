package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

// embedded holds dist, as the UI build leaves it, and dist-missing, a page for a
// program that was built without it.
//
//go:embed all:dist*
var embedded embed.FS

// file is one entry of dist/files.json, which the UI build writes. Compressible
// files are only stored compressed (.br and .gz); a client that takes neither
// gets the gzip form unpacked.
type file struct {
	Type      string   `json:"type"`
	SHA256    string   `json:"sha256"` // of the unpacked bytes, hex
	Size      int64    `json:"size"`   // unpacked, in bytes
	Encodings []string `json:"enc"`    // "br", "gz"; empty: stored as it is
	Immutable bool     `json:"immutable"`
}

type files struct {
	fs      fs.FS
	index   map[string]file
	callCSP string // policy of /element-call/
}

func openFiles(root fs.FS) (*files, error) {
	dir := "dist"
	if _, err := fs.Stat(root, "dist/index.html"); err != nil {
		if _, err := fs.Stat(root, "dist/files.json"); err != nil {
			dir = "dist-missing"
		}
	}
	sub, err := fs.Sub(root, dir)
	if err != nil {
		return nil, err
	}
	f := &files{fs: sub, index: map[string]file{}}
	raw, err := fs.ReadFile(sub, "files.json")
	if errors.Is(err, fs.ErrNotExist) {
		return f, f.scan() // a bare build, without the compressing step
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &f.index); err != nil {
		return nil, fmt.Errorf("the index of the embedded user interface is damaged, build again: %w", err)
	}
	if _, ok := f.index["index.html"]; !ok {
		return nil, errors.New("the embedded user interface has no index.html: build again")
	}
	if e, ok := f.index["element-call/index.html"]; ok {
		html, _, err := f.open("element-call/index.html", e, "")
		if err != nil {
			return nil, err
		}
		f.callCSP = elementCallCSP(scriptHashes(html))
	}
	return f, nil
}

// scan indexes files that are stored as they are.
func (f *files) scan() error {
	return fs.WalkDir(f.fs, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(f.fs, p)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(raw)
		t := mime.TypeByExtension(path.Ext(p))
		if t == "" {
			t = "application/octet-stream"
		}
		f.index[p] = file{Type: t, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(raw))}
		return nil
	})
}

// open returns the stored bytes of a file in an encoding that the client takes,
// and the Content-Encoding, empty when the bytes are plain.
func (f *files) open(name string, e file, accept string) ([]byte, string, error) {
	if len(e.Encodings) == 0 {
		b, err := fs.ReadFile(f.fs, name)
		return b, "", err
	}
	for _, enc := range []struct{ name, header string }{{"br", "br"}, {"gz", "gzip"}} {
		if contains(e.Encodings, enc.name) && accepts(accept, enc.header) {
			b, err := fs.ReadFile(f.fs, name+"."+enc.name)
			return b, enc.header, err
		}
	}
	b, err := fs.ReadFile(f.fs, name+".gz")
	if err != nil {
		return nil, "", err
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, "", err
	}
	plain, err := io.ReadAll(z)
	return plain, "", err
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// accepts reads an Accept-Encoding header: does it allow coding, with a quality
// above zero? Spec: RFC 9110 section 12.5.3
func accepts(header, coding string) bool {
	star := false
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(part, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name != coding && name != "*" {
			continue
		}
		ok := true
		for p := range strings.SplitSeq(params, ";") {
			if v, found := strings.CutPrefix(strings.TrimSpace(p), "q="); found {
				q, err := strconv.ParseFloat(v, 64)
				ok = err == nil && q > 0
			}
		}
		if name == coding {
			return ok
		}
		star = ok
	}
	return star
}

// serveFile answers with a file of the UI. Paths that are no file belong to the
// single page application and get its index.html, so that a link into the app
// works; a missing asset answers 404, so that a mistake is seen.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Only GET and HEAD are possible here.", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
	if strings.HasSuffix(r.URL.Path, "/") || name == "" {
		name = path.Join(name, "index.html")
	}
	if name == "element-call" {
		http.Redirect(w, r, "/element-call/", http.StatusMovedPermanently)
		return
	}
	e, ok := s.files.index[name]
	if !ok {
		if path.Ext(name) != "" && isAsset(name) || strings.HasPrefix(name, "element-call/") {
			h := w.Header()
			commonHeaders(h)
			h.Set("Cache-Control", "no-store")
			http.Error(w, "There is no such file.", http.StatusNotFound)
			return
		}
		name = "index.html"
		if e, ok = s.files.index[name]; !ok {
			http.Error(w, "The user interface is not part of this build. Run make build.", http.StatusNotFound)
			return
		}
	}
	if name == "index.html" && s.toSetup(w, r) {
		return
	}
	h := w.Header()
	commonHeaders(h)
	if strings.HasPrefix(name, "element-call/") {
		h.Set("Content-Security-Policy", s.files.callCSP)
	} else {
		h.Set("Content-Security-Policy", appCSP)
	}
	h.Set("Vary", "Accept-Encoding")
	h.Set("Content-Type", e.Type)
	if e.Immutable {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	body, encoding, err := s.files.open(name, e, r.Header.Get("Accept-Encoding"))
	if err != nil {
		s.Log.Error("an embedded file cannot be read", "file", name, "err", err)
		http.Error(w, "This file is damaged in the program. Install it again.", http.StatusInternalServerError)
		return
	}
	tag := e.SHA256[:min(32, len(e.SHA256))]
	if encoding != "" {
		h.Set("Content-Encoding", encoding)
		tag += "-" + encoding
	}
	h.Set("ETag", `"`+tag+`"`)
	if encoding != "" {
		// ServeContent leaves Content-Length out when an encoding is set, and a
		// range of compressed bytes helps nobody.
		r.Header.Del("Range")
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// isAsset says whether a missing path is a file that some page asked for, not a
// place in the application (which may have dots too: room and user IDs).
func isAsset(name string) bool {
	if strings.HasPrefix(name, "assets/") {
		return true
	}
	switch path.Ext(name) {
	case ".js", ".css", ".map", ".wasm", ".json", ".png", ".svg", ".ico", ".woff2", ".txt", ".webmanifest":
		return !strings.Contains(name, "/")
	}
	return false
}

// toSetup sends the first visitor to the wizard while nobody has claimed the
// appliance.
func (s *Server) toSetup(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != "/" || r.URL.RawQuery != "" || s.Setup == nil {
		return false
	}
	st, err := s.Setup.State(r.Context())
	if err != nil || st.Claimed() {
		return false
	}
	commonHeaders(w.Header())
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, "/setup", http.StatusSeeOther)
	return true
}
