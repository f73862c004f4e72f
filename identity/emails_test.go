package identity_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/identity/account"
)

func TestCanonicalEmail(t *testing.T) {
	for in, want := range map[string]string{
		"anna@example.org": "anna@example.org", "Anna.B+x@Example.ORG": "anna.b+x@example.org", "a@b": "a@b", "o'hara@example.org": "o'hara@example.org",
		"": "", "anna": "", "@example.org": "", "anna@": "", "a@b@c": "", "anna @example.org": "", "<anna@example.org>": "", "Anna <a@b>": "",
		"anna@example.org,b@c": "", "anna@[192.0.2.1]": "", "ännä@example.org": "", "anna@exämple.org": "", "a\n@b": "",
		strings.Repeat("a", 65) + "@b": "", "a@" + strings.Repeat("b", 253): "",
	} {
		got, err := identity.CanonicalEmail(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v, want %q", in, got, err, want)
		}
	}
}

// What is taken as an address goes into a mail's envelope and head as it is.
func FuzzCanonicalEmail(f *testing.F) {
	for _, s := range []string{"anna@example.org", "\"a b\"@example.org", "a@b\r\nRCPT TO:<x@y>", "a@[127.0.0.1]", "ä@ö", "a@b>", "", "@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := identity.CanonicalEmail(s)
		if err != nil {
			return
		}
		if again, err := identity.CanonicalEmail(got); err != nil || again != got {
			t.Errorf("%q becomes %q, then %q %v", s, got, again, err)
		}
		if len(got) > 254 || strings.Count(got, "@") != 1 || strings.ContainsAny(got, " \t\r\n\x00<>,;:\\\"") || !strings.EqualFold(got, s) {
			t.Errorf("%q is taken as %q", s, got)
		}
	})
}

// A mail is good for hours, a proof for one; both end with the account they are about.
func TestEmailProofsExpire(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("anna")
	ask := func(purpose, address, secret string, attempt int64) identity.EmailTicket {
		t.Helper()
		k, err := r.svc.BeginEmail(t.Context(), identity.EmailRequest{Purpose: purpose, Address: address, Secret: secret, Attempt: attempt})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	submit := func(k identity.EmailTicket, secret string, want error) {
		t.Helper()
		if _, err := r.svc.SubmitEmail(t.Context(), k.SID, &secret, k.Token); !errors.Is(err, want) {
			t.Fatalf("submit: %v, want %v", err, want)
		}
	}
	add := func(k identity.EmailTicket, secret string, want error) {
		t.Helper()
		if err := r.svc.AddEmail(t.Context(), u.UserID, k.SID, secret); !errors.Is(err, want) {
			t.Fatalf("add: %v, want %v", err, want)
		}
	}
	late := ask(account.ProofAdd, "late@example.org", "s", 1)
	r.wait(account.ProofFor + time.Second)
	submit(late, "s", identity.ErrEmailExpired)
	if again := ask(account.ProofAdd, "late@example.org", "s", 1); again.SID == late.SID || !again.Send || again.Token == "" {
		t.Errorf("a session that is over goes on: %+v", again)
	}

	slow := ask(account.ProofAdd, "slow@example.org", "s", 1)
	r.wait(account.ProofFor - time.Minute)
	submit(slow, "s", nil)
	r.wait(time.Hour + time.Second)
	submit(slow, "s", identity.ErrEmailExpired)
	add(slow, "s", identity.ErrEmailProof)

	k := ask(account.ProofAdd, "anna@example.org", "s", 1)
	add(k, "s", identity.ErrEmailProof)
	submit(k, "s", nil)
	add(k, "other", identity.ErrEmailProof)
	add(k, "s", nil)

	// A new password for who has the address then, not for who has it later.
	p := ask(account.ProofPassword, "anna@example.org", "p", 1)
	if p.Owner.UserID != u.UserID || p.Token == "" {
		t.Fatalf("%+v", p)
	}
	submit(p, "p", nil)
	if err := r.svc.RemoveEmail(t.Context(), u.UserID, "anna@example.org"); err != nil {
		t.Fatal(err)
	}
	bea := r.user("bea")
	k = ask(account.ProofAdd, "anna@example.org", "b", 1)
	submit(k, "b", nil)
	if err := r.svc.AddEmail(t.Context(), bea.UserID, k.SID, "b"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.svc.UseEmail(t.Context(), account.ProofPassword, p.SID, "p"); !errors.Is(err, identity.ErrEmailProof) {
		t.Fatalf("the former owner's proof: %v", err)
	}
	// A locked account gets no new password by mail.
	if err := r.svc.SetDisabled(t.Context(), bea.UserID, true); err != nil {
		t.Fatal(err)
	}
	if k := ask(account.ProofPassword, "anna@example.org", "q", 1); k.Token != "" {
		t.Error("a locked account may have its password changed by mail")
	}
	if err := r.svc.Deactivate(t.Context(), bea.UserID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.svc.EmailOwner(t.Context(), "anna@example.org"); !errors.Is(err, identity.ErrNoUser) {
		t.Errorf("a closed account keeps its address: %v", err)
	}

	// Not more mail than is good for an address, and not more addresses for an account.
	for i := range int64(5) {
		ask(account.ProofAdd, "flood@example.org", "f", i+1)
	}
	var slowDown *identity.SlowDown
	if _, err := r.svc.BeginEmail(t.Context(), identity.EmailRequest{Purpose: account.ProofRegister, Address: "flood@example.org", Secret: "g", Attempt: 1}); !errors.As(err, &slowDown) || slowDown.Wait <= 0 {
		t.Errorf("the sixth mail in an hour: %v", err)
	}
	r.wait(time.Hour + time.Second)
	ask(account.ProofRegister, "flood@example.org", "g", 1)
	for i := range 11 {
		address := string(rune('a'+i)) + "@many.example.org"
		k := ask(account.ProofAdd, address, "m", 1)
		submit(k, "m", nil)
		want := error(nil)
		if i == 10 {
			want = identity.ErrEmails
		}
		add(k, "m", want)
	}
}

// What is mailed, and what a client keeps to itself, cannot be read in the database.
func TestEmailSecretsAreHashed(t *testing.T) {
	r := newRig(t, nil)
	k, err := r.svc.BeginEmail(t.Context(), identity.EmailRequest{Purpose: account.ProofAdd, Address: "anna@example.org", Secret: "the-secret-of-the-client", Attempt: 1})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := r.svc.Seal("password of a mail server")
	if err != nil {
		t.Fatal(err)
	}
	if back, err := r.svc.Unseal(sealed); err != nil || back != "password of a mail server" || strings.Contains(sealed, "password") {
		t.Errorf("%q %v", back, err)
	}
	if _, err := r.svc.Unseal(sealed[:len(sealed)-4] + "AAAA"); err == nil {
		t.Error("a changed seal opens")
	}
	var dump string
	for _, p := range []string{r.path, r.path + "-wal"} {
		b, err := os.ReadFile(p)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		dump += string(b)
	}
	for _, secret := range []string{k.Token, "the-secret-of-the-client"} {
		if strings.Contains(dump, secret) {
			t.Errorf("%q is in the database", secret)
		}
	}
	if !strings.Contains(dump, "anna@example.org") {
		t.Error("the dump misses what it should have")
	}
}
