package guess

import (
	"crypto/rand"
	"testing"
)

func TestCheck(t *testing.T) {
	about := []string{"anna.meyer", "Anna Meyer", "Stadtwerke Nord", "chat.example.org"}
	for password, want := range map[string]Why{
		"password": Word, "PASSWORD": Word, "Password1!": Word, "P@ssw0rd": Word, "p455w0rd": Word, "Sunshine2024!": Word, "!!dragon!!": Word, "iloveyou": Word,
		"baseball99": Word, "letmeinletmein": Word, "superman": Word,
		"aaaaaaaa": Simple, "abcabcabc": Simple, "qwertzuiop": Simple, "98765432": Simple, "asdfghjklasdfghjkl": Simple, "11112222": Simple, "1qaz2wsx3edc": Word,
		"anna.meyer1": Name, "AnnaMeyer2024": Name, "4nn4meyer": Name, "StadtwerkeNord1": Name, "example.org": Name, "reyemanna": Name, "anna123456": Name,
		"correct horse battery": Fine, "lantern orbit maple 4": Fine, "anna likes green tea": Fine, "x9#Kq2!vLm": Fine, "dragon8472956103": Fine, "long enough": Fine,
		"Übermäßig viel Tee": Fine, "пароль из слов": Fine,
	} {
		got := Check(password, about...)
		if want == Word && got == Simple || want == Simple && got == Word { // refused either way
			got = want
		}
		if got != want {
			t.Errorf("%q: %q, want %q", password, got, want)
		}
	}
}

// Passwords that a program makes are taken.
func TestRandomOnes(t *testing.T) {
	refused := 0
	for range 2000 {
		if Check(rand.Text()[:12], "anna") != Fine {
			refused++
		}
	}
	if refused > 2 {
		t.Errorf("%d of 2000 random passwords are refused", refused)
	}
	if len(words)%4 != 0 || len(words) < 4*25_000 {
		t.Errorf("words.bin has %d bytes", len(words))
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("Password1!", "anna")
	f.Add("\xff\xfe", "")
	f.Fuzz(func(t *testing.T, password, about string) { Check(password, about) })
}
