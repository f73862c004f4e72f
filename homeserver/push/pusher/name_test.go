package pusher

import (
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"Anna": "Anna", "  Anna \t Meyer\n": "Anna Meyer", "a\r\nBcc: b@c": "a Bcc: b@c", "\u202eevil\u200b": "evil", "a\x00b": "ab", "\u2028": "", "Ärzte 🏥": "Ärzte 🏥",
	} {
		if got := shown(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func FuzzShown(f *testing.F) {
	f.Add("a\nb")
	f.Add("\u202e\xff\x00")
	f.Fuzz(func(t *testing.T, name string) {
		got := shown(name)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > maxShown {
			t.Errorf("%q is shown as %q", name, got)
		}
		for _, r := range got {
			if r != ' ' && (unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				t.Errorf("%q is shown as %q", name, got)
			}
		}
	})
}

func TestMailPause(t *testing.T) {
	for row, want := range []time.Duration{0, time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 16 * time.Hour, 24 * time.Hour, 24 * time.Hour} {
		if got := (mailState{row: row}).pause(mailPause); got != want {
			t.Errorf("after %d messages in a row: %v, want %v", row, got, want)
		}
	}
	if got := (mailState{row: 1000}).pause(mailPause); got != maxMailPause {
		t.Errorf("after very many: %v", got)
	}
}
