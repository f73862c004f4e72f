package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"holdfast/store/blob"
)

func open(t testing.TB) (*blob.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := blob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func files(t testing.TB, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPutOpenDelete(t *testing.T) {
	s, dir := open(t)
	ctx := context.Background()
	data := bytes.Repeat([]byte("holdfast"), 100_000)
	ref, err := s.Put(ctx, bytes.NewReader(data), int64(len(data)))
	if err != nil || ref.Size != int64(len(data)) {
		t.Fatalf("%+v %v", ref, err)
	}
	again, err := s.Put(ctx, iotest.OneByteReader(bytes.NewReader(data)), 1<<30)
	if err != nil || again != ref || files(t, dir) != 1 {
		t.Fatalf("equal content should be one file: %+v %v, %d files", again, err, files(t, dir))
	}
	f, err := s.Open(ref.Hash)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(f)
	f.Close()
	if !bytes.Equal(got, data) || s.Verify(ref.Hash) != nil {
		t.Fatal("content differs")
	}
	for range 2 {
		if err := s.Delete(ref.Hash); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Open(ref.Hash); !errors.Is(err, blob.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestRefusedContentLeavesNothing(t *testing.T) {
	s, dir := open(t)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		ctx  context.Context
		r    io.Reader
		want error
	}{
		"too large": {context.Background(), strings.NewReader("12345"), blob.ErrTooLarge},
		"broken":    {context.Background(), io.MultiReader(strings.NewReader("1"), iotest.ErrReader(broken)), broken},
		"cancelled": {cancelled, strings.NewReader("1"), context.Canceled},
	} {
		if _, err := s.Put(c.ctx, c.r, 4); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := files(t, dir); n != 0 {
		t.Errorf("%d files left", n)
	}
}

func TestHashesThatAreNone(t *testing.T) {
	s, _ := open(t)
	for _, h := range []string{"", "..", strings.Repeat("a", 63), strings.Repeat("A", 64), "../../" + strings.Repeat("a", 58)} {
		if _, err := s.Open(h); !errors.Is(err, blob.ErrBadHash) {
			t.Errorf("%q: %v", h, err)
		}
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	s, dir := open(t)
	ref, err := s.Put(context.Background(), strings.NewReader("good"), 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ref.Hash[:2], ref.Hash), []byte("baad"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.Verify(ref.Hash) == nil {
		t.Fatal("damage was not found")
	}
}

func TestOpenClearsHalfWritten(t *testing.T) {
	_, dir := open(t)
	if err := os.WriteFile(filepath.Join(dir, "tmp", "half"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := blob.Open(dir); err != nil || files(t, dir) != 0 {
		t.Fatal(err, files(t, dir))
	}
}
