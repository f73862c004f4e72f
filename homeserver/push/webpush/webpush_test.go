package webpush

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func b64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The example of RFC 8291, section 5.
func TestExample(t *testing.T) {
	own, err := ecdh.P256().NewPrivateKey(b64(t, "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
	if err != nil {
		t.Fatal(err)
	}
	to, err := ecdh.P256().NewPublicKey(b64(t, "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := seal(own, to, b64(t, "BTBZMqHH6r4Tts7J_aSIgg"), b64(t, "DGv6ra1nlYgDCS1FRnbzlw"), []byte("When I grow up, I want to be a watermelon"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
	if s := base64.RawURLEncoding.EncodeToString(got); s != want {
		t.Errorf("the body is %s", s)
	}
}

// Browser is a browser with its maker's push service.
type Browser struct {
	T      *testing.T
	Key    *ecdh.PrivateKey
	Auth   []byte
	Status atomic.Int32 // of its answers; 0: it takes the message
	Head   http.Header
	Got    chan string
	Vapid  string // key that identified the sender
}

// NewBrowser makes a browser that has subscribed.
func NewBrowser(t *testing.T) *Browser {
	b := &Browser{T: t, Auth: make([]byte, 16), Got: make(chan string, 100)}
	var err error
	if b.Key, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	rand.Read(b.Auth)
	return b
}

// At is its subscription at a push service.
func (b *Browser) At(url string) Subscription {
	enc := base64.RawURLEncoding
	return Subscription{url + "/secret", enc.EncodeToString(b.Key.PublicKey().Bytes()), enc.EncodeToString(b.Auth)}
}

func (b *Browser) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	b.Head = r.Header
	if status := b.Status.Load(); status != 0 {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(int(status))
		return
	}
	text := b.open(body)
	t, k, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "vapid t="), ", k=")
	if !ok {
		b.T.Errorf("no VAPID: %s", r.Header.Get("Authorization"))
	}
	b.Vapid = k
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), b64(b.T, k))
	if err != nil {
		b.T.Fatal(err)
	}
	parts := strings.Split(t, ".")
	if len(parts) != 3 {
		b.T.Fatalf("the token is %s", t)
	}
	sum, sig := sha256.Sum256([]byte(parts[0]+"."+parts[1])), b64(b.T, parts[2])
	if !ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		b.T.Error("the token's signature is wrong")
	}
	var c struct {
		Aud, Sub string
		Exp      int64
	}
	if err := json.Unmarshal(b64(b.T, parts[1]), &c); err != nil || c.Aud != "https://"+r.Host || c.Sub != "https://chat.example.org" || time.Until(time.Unix(c.Exp, 0)) > 24*time.Hour || time.Until(time.Unix(c.Exp, 0)) < time.Hour {
		b.T.Errorf("the token says %+v", c)
	}
	b.Got <- text // whoever waits for it may look at the rest
	w.WriteHeader(201)
}

// open is decryption as a browser does it. Spec: RFC 8291 section 3
func (b *Browser) open(body []byte) string {
	salt, size, n := body[:16], binary.BigEndian.Uint32(body[16:20]), int(body[20])
	from, err := ecdh.P256().NewPublicKey(body[21 : 21+n])
	if err != nil || int(size) < len(body)-21-n {
		b.T.Fatal(err, size)
	}
	secret, _ := b.Key.ECDH(from)
	input, _ := hkdf.Key(sha256.New, secret, b.Auth, "WebPush: info\x00"+string(b.Key.PublicKey().Bytes())+string(from.Bytes()), 32)
	key, _ := hkdf.Key(sha256.New, input, salt, "Content-Encoding: aes128gcm\x00", 16)
	nonce, _ := hkdf.Key(sha256.New, input, salt, "Content-Encoding: nonce\x00", 12)
	block, _ := aes.NewCipher(key)
	gcm, _ := cipher.NewGCM(block)
	text, err := gcm.Open(nil, nonce, body[21+n:], nil)
	if err != nil {
		b.T.Fatalf("the browser cannot read it: %v", err)
	}
	text = bytes.TrimRight(text, "\x00")
	if text[len(text)-1] != 2 {
		b.T.Error("the record is not the last")
	}
	return string(text[:len(text)-1])
}

func TestSend(t *testing.T) {
	b := NewBrowser(t)
	srv := httptest.NewTLSServer(b)
	defer srv.Close()
	made := 0
	s := New(Options{Client: srv.Client(), Subject: func() string { return "https://chat.example.org" }, Key: func(context.Context) ([]byte, error) {
		made++
		return NewKey()
	}})
	to := b.At(srv.URL)
	ctx := context.Background()
	for _, text := range []string{`{"room_id":"!r"}`, "", strings.Repeat("x", MaxMessage)} {
		if err := s.Send(ctx, to, []byte(text), true, time.Hour); err != nil {
			t.Fatal(err)
		}
		if got := <-b.Got; got != text {
			t.Errorf("the browser reads %q, want %q", got, text)
		}
	}
	if b.Head.Get("TTL") != "3600" || b.Head.Get("Urgency") != "high" || b.Head.Get("Content-Encoding") != "aes128gcm" {
		t.Errorf("the headers are %v", b.Head)
	}
	if key, err := s.PublicKey(ctx); err != nil || key != b.Vapid || made != 1 {
		t.Errorf("the key is %s, %v, made %d times", key, err, made)
	}
	if err := s.Send(ctx, to, make([]byte, MaxMessage+1), true, 0); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	for status, is := range map[int]func(error) bool{
		404: func(err error) bool { return errors.Is(err, ErrGone) },
		410: func(err error) bool { return errors.Is(err, ErrGone) },
		403: func(err error) bool { return errors.Is(err, ErrGone) },
		413: func(err error) bool { return errors.Is(err, ErrTooLarge) },
		429: func(err error) bool { var x *Busy; return errors.As(err, &x) && x.Wait == 7*time.Second },
		500: func(err error) bool { return err != nil && !errors.Is(err, ErrGone) },
		302: func(err error) bool { return err != nil && !errors.Is(err, ErrGone) },
	} {
		b.Status.Store(int32(status))
		if err := s.Send(ctx, to, []byte("x"), false, 0); !is(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("on %d: %v", status, err)
		}
	}
	srv.Close()
	if err := s.Send(ctx, to, []byte("x"), false, 0); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("without a push service: %v", err)
	}
}

func TestCheck(t *testing.T) {
	good := Subscription{"https://push.example/x", "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", "BTBZMqHH6r4Tts7J_aSIgg"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Subscription){
		"plain HTTP": func(s *Subscription) { s.Endpoint = "http://push.example/x" },
		"no host":    func(s *Subscription) { s.Endpoint = "https:///x" },
		"a password": func(s *Subscription) { s.Endpoint = "https://a:b@push.example/x" },
		"long":       func(s *Subscription) { s.Endpoint = "https://push.example/" + strings.Repeat("x", 2048) },
		"no key":     func(s *Subscription) { s.P256dh = "" },
		"no point": func(s *Subscription) {
			s.P256dh = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiww"
		},
		"short auth": func(s *Subscription) { s.Auth = "BTBZMqHH" },
	} {
		bad := good
		change(&bad)
		if bad.Check() == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// A subscription that is taken can be encrypted for.
func FuzzSubscription(f *testing.F) {
	f.Add("https://push.example/x", "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", "BTBZMqHH6r4Tts7J_aSIgg")
	f.Add("http://[::1", "=", "====")
	f.Fuzz(func(t *testing.T, endpoint, key, auth string) {
		u, to, secret, err := Subscription{endpoint, key, auth}.parse()
		if err != nil {
			return
		}
		if u.Scheme != "https" {
			t.Errorf("%q is taken", endpoint)
		}
		if b, err := encrypt(to, secret, []byte("x")); err != nil || len(b) != 16+4+1+65+1+1+16 {
			t.Errorf("%d %v", len(b), err)
		}
	})
}
