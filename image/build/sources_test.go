package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every source of what is pinned is pinned too, file by file.
func TestSourcesArePinned(t *testing.T) {
	pins, err := readPins()
	if err != nil {
		t.Fatal(err)
	}
	list, err := readSources(pins)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		descriptions := 0
		for _, f := range s.Files {
			if len(f.SHA256) != 64 || f.Size <= 0 || filepath.Base(f.Name) != f.Name {
				t.Errorf("%s: %+v", s.Source, f)
			}
			if strings.HasSuffix(f.Name, ".dsc") {
				descriptions++
			}
		}
		if descriptions != 1 || len(s.Files) < 2 {
			t.Errorf("%s has the files %v", s.Source, s.Files)
		}
	}
	pins[0].Source = "hello 9.9"
	if _, err := readSources(pins); err == nil || !strings.Contains(err.Error(), "make image-pins") {
		t.Errorf("a source without files: %v", err)
	}
}

func TestSourceRecord(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	record := "Package: hello\nVersion: 1.0-1\nFiles:\n d41d8cd98f00b204e9800998ecf8427e 5 hello_1.0-1.dsc\nChecksums-Sha256:\n " +
		sum + " 7 hello_1.0.orig.tar.gz\n " + sum + " 5 hello_1.0-1.dsc\n " + sum + " 5 ../hello\n short 5 x\nDirectory: pool/main/h/hello\n"
	got, ok := sourceRecord(record, "1.0-1")
	if want := []sourceFile{{"hello_1.0-1.dsc", 5, sum}, {"hello_1.0.orig.tar.gz", 7, sum}}; !ok || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, %v", got, ok)
	}
	for _, version := range []string{"1.0-2", "1.0", ""} {
		if _, ok := sourceRecord(record, version); ok {
			t.Errorf("it is taken for version %q", version)
		}
	}
	if _, ok := sourceRecord("Version: 1\nFiles:\n a 1 b\n", "1"); ok {
		t.Error("a record without SHA-256 is taken")
	}
}

// oldPackages is an archive of old packages with some files.
func oldPackages(t *testing.T, list string, files map[string]string) snapshot {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == list {
			if r.URL.RawQuery != "fileinfo=1" {
				t.Errorf("it asks for %s", r.URL)
			}
			var info []string
			for name := range files {
				info = append(info, fmt.Sprintf(`"%x": [{"name": %q, "archive_name": "debian"}]`, name, name))
			}
			fmt.Fprintf(w, `{"package": "x", "fileinfo": {%s}}`, strings.Join(info, ", "))
			return
		}
		name, err := hex.DecodeString(strings.TrimPrefix(r.URL.Path, "/file/"))
		text, ok := files[string(name)]
		if err != nil || !ok {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(text))
	}))
	t.Cleanup(srv.Close)
	return snapshot(srv.URL)
}

func TestSnapshot(t *testing.T) {
	file := func(name, text string) sourceFile {
		sum := sha256.Sum256([]byte(text))
		return sourceFile{name, int64(len(text)), hex.EncodeToString(sum[:])}
	}
	s := oldPackages(t, "/mr/package/hello/1:2.0~a+b-1/srcfiles", map[string]string{"hello.dsc": "right", "changed": "wrong", "longer": "right and more"})
	dir := t.TempDir()
	get := func(f sourceFile) error { return s.source(t.Context(), "hello", "1:2.0~a+b-1", f, dir) }
	if err := get(file("hello.dsc", "right")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "hello.dsc")); err != nil || string(b) != "right" {
		t.Errorf("%q, %v", b, err)
	}
	for _, name := range []string{"changed", "longer", "absent"} {
		if err := get(file(name, "right")); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := s.source(t.Context(), "hello", "3", file("hello.dsc", "right"), dir); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("another version: %v", err)
	}
	if err := snapshot("").source(t.Context(), "hello", "3", file("x", "y"), dir); err == nil {
		t.Error("no archive gives a file")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("it leaves %v", left)
	}

	deb := file("", "a package")
	p := pin{Name: "hello", Arch: "amd64", Version: "1:2.0~a-1", Size: deb.Size, SHA256: deb.SHA256}
	s = oldPackages(t, "/mr/binary/hello/1:2.0~a-1/binfiles", map[string]string{"hello_2.0~a-1_amd64.deb": "a package", "hello_2.0~a-1_arm64.deb": "another"})
	path := filepath.Join(dir, p.file())
	if err := s.binary(t.Context(), p, path); err != nil {
		t.Fatal(err)
	}
	if err := p.check(path); err != nil {
		t.Error(err)
	}
	if got, want := debianSnapshot.page("u-boot", "2023.01+dfsg-2+deb12u3"), "https://snapshot.debian.org/package/u-boot/2023.01+dfsg-2+deb12u3/"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := url.Parse(snapshot("").page("a", "1")); err != nil {
		t.Error(err)
	}
}

// What is in the folder is kept when it is right, whoever laid it there, and nobody
// is asked.
func TestFetchSourcesTakesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	pinned := sourcesJSON
	t.Cleanup(func() { sourcesJSON = pinned })
	pins, err := readPins()
	if err != nil {
		t.Fatal(err)
	}
	var list bytes.Buffer
	for i, s := range sourcePackages(pins) {
		if i > 0 {
			list.WriteString(",")
		}
		text := "source of " + s
		sum := sha256.Sum256([]byte(text))
		fmt.Fprintf(&list, `{"source": %q, "files": [{"name": "%d.dsc", "size": %d, "sha256": "%x"}]}`, s, i, len(text), sum)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".dsc")), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sourcesJSON = []byte("[" + list.String() + "]")
	// Without sources of apt it could fetch nothing.
	none := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := options{cache: t.TempDir(), sources: none}
	if err := fetchSources(context.Background(), o, dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0.dsc"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fetchSources(context.Background(), o, dir); err == nil {
		t.Error("a wrong file is taken")
	}
}
