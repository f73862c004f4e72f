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
	"time"

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
	ref, release, err := s.Put(ctx, bytes.NewReader(data), int64(len(data)))
	if err != nil || ref.Size != int64(len(data)) {
		t.Fatalf("%+v %v", ref, err)
	}
	again, releaseAgain, err := s.Put(ctx, iotest.OneByteReader(bytes.NewReader(data)), 1<<30)
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
	free := func() (bool, error) { return false, nil }
	release()
	release() // twice is once
	if n, err := s.Remove(ref.Hash, free); n != 0 || err != nil {
		t.Fatalf("removed while it was held: %d %v", n, err)
	}
	releaseAgain()
	if n, err := s.Remove(ref.Hash, func() (bool, error) { return true, nil }); n != 0 || err != nil {
		t.Fatalf("removed while it was used: %d %v", n, err)
	}
	if f, err := s.Open(ref.Hash); err != nil {
		t.Fatal(err)
	} else {
		f.Close()
	}
	for _, want := range []int64{ref.Size, 0} {
		if n, err := s.Remove(ref.Hash, free); n != want || err != nil {
			t.Fatal(n, err)
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
		if _, _, err := s.Put(c.ctx, c.r, 4); !errors.Is(err, c.want) {
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
	ref, _, err := s.Put(context.Background(), strings.NewReader("good"), 10)
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

// Content that is put while it is removed is there afterwards.
func TestPutWhileRemoved(t *testing.T) {
	s, _ := open(t)
	ctx := context.Background()
	ref, release, err := s.Put(ctx, strings.NewReader("content"), 10)
	if err != nil {
		t.Fatal(err)
	}
	release()
	type result struct {
		release func()
		err     error
	}
	put := make(chan result)
	freed, err := s.Remove(ref.Hash, func() (bool, error) {
		go func() {
			_, release, err := s.Put(ctx, strings.NewReader("content"), 10)
			put <- result{release, err}
		}()
		select {
		case <-put:
			t.Error("it was put while it was being removed")
		case <-time.After(20 * time.Millisecond): // right however long it takes
		}
		return false, nil
	})
	if freed != ref.Size || err != nil {
		t.Fatal(freed, err)
	}
	r := <-put
	if r.err != nil {
		t.Fatal(r.err)
	}
	if err := s.Verify(ref.Hash); err != nil {
		t.Fatal(err)
	}
	r.release()
}

func TestEach(t *testing.T) {
	s, dir := open(t)
	want := map[string]bool{}
	for i := range 20 {
		ref, release, err := s.Put(context.Background(), strings.NewReader(strings.Repeat("x", i)), 100)
		if err != nil {
			t.Fatal(err)
		}
		release()
		want[ref.Hash] = true
	}
	if err := os.WriteFile(filepath.Join(dir, "aa", "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Each(func(hashes []string) error {
		for _, h := range hashes {
			if !want[h] {
				t.Errorf("%s: twice, or no blob", h)
			}
			delete(want, h)
		}
		return nil
	}); err != nil || len(want) != 0 {
		t.Fatal(err, want)
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
