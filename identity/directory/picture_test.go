package directory

import (
	"errors"
	"testing"
)

// What a directory gives as a picture is refused or is one of the two kinds, within bounds.
func FuzzSniff(f *testing.F) {
	for _, s := range []string{"", "\xff\xd8\xff\xe0\x00\x10JFIF", "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU", "GIF89a", "<svg/>"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		kind, err := sniff(raw)
		if err != nil && !errors.Is(err, ErrPicture) || err == nil && kind != "image/jpeg" && kind != "image/png" || err == nil && len(raw) > maxPicture {
			t.Errorf("%q %v", kind, err)
		}
	})
}
