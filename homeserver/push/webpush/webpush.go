// Package webpush sends messages to browsers by way of their makers' push services:
// encryption (RFC 8291), identification (VAPID, RFC 8292) and the request (RFC 8030).
//
// Invariants: a push service sees which browser is woken, when, and how urgently,
// never the message; each message has a key of its own; only https endpoints are
// asked, and redirects are not followed; the private key is read when it is first
// needed and not logged.
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
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// MaxMessage is the largest message, in bytes: what every push service takes, less
// what encryption adds.
const MaxMessage = 3993

const (
	maxEndpoint    = 2048
	recordSize     = 4096
	tokenLife      = 12 * time.Hour // push services refuse more than a day
	requestTimeout = 20 * time.Second
	maxWait        = time.Hour
)

// Errors of Send that callers test for.
var (
	// ErrGone means that the subscription has ended, or belongs to another key.
	ErrGone = errors.New("the browser's subscription has ended")
	// ErrTooLarge means that the push service takes no message of that size.
	ErrTooLarge = errors.New("the message is too large for a push service")
)

// Busy means that the push service wants to be left alone for a while.
type Busy struct{ Wait time.Duration }

func (b *Busy) Error() string { return fmt.Sprintf("the push service asks for a pause of %v", b.Wait) }

// Subscription is where a browser wants its messages, as it tells applications.
type Subscription struct {
	Endpoint string
	P256dh   string // the browser's public key, base64url
	Auth     string // 16 secret bytes, base64url
}

// Check reports what is wrong with a subscription. The error is for its client.
func (s Subscription) Check() error {
	_, _, _, err := s.parse()
	return err
}

func (s Subscription) parse() (u *url.URL, key *ecdh.PublicKey, auth []byte, err error) {
	if len(s.Endpoint) > maxEndpoint {
		return nil, nil, nil, fmt.Errorf("the endpoint has more than %d bytes", maxEndpoint)
	}
	u, err = url.Parse(s.Endpoint)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return nil, nil, nil, errors.New("the endpoint must be an https:// URL of a push service")
	}
	b, err := decode(s.P256dh)
	if err == nil {
		key, err = ecdh.P256().NewPublicKey(b)
	}
	if err != nil {
		return nil, nil, nil, errors.New("p256dh must be an uncompressed P-256 public key in base64url")
	}
	if auth, err = decode(s.Auth); err != nil || len(auth) != 16 {
		return nil, nil, nil, errors.New("auth must be 16 bytes in base64url")
	}
	return u, key, auth, nil
}

func decode(s string) ([]byte, error) {
	if len(s) > 256 {
		return nil, errors.New("too long")
	}
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}

// NewKey makes a private key for VAPID, 32 bytes.
func NewKey() ([]byte, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return k.Bytes()
}

// Options of New.
type Options struct {
	// Client makes the requests; it refuses addresses that the server must not reach.
	Client *http.Client
	// Key gives the private key, which it makes when it is asked first.
	Key func(ctx context.Context) ([]byte, error)
	// Subject is how the operators of a push service reach this server's: an https:
	// or mailto: URL.
	Subject func() string
}

// Sender sends messages. Its methods are safe for concurrent use.
type Sender struct {
	o      Options
	client *http.Client
	mu     sync.Mutex
	key    *ecdsa.PrivateKey
	public string
}

// New makes a Sender.
func New(o Options) *Sender {
	client := http.Client{}
	if o.Client != nil {
		client = *o.Client
	}
	client.Timeout = requestTimeout
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Sender{o: o, client: &client}
}

// PublicKey is what browsers subscribe with, in base64url.
func (s *Sender) PublicKey(ctx context.Context) (string, error) {
	_, public, err := s.load(ctx)
	return public, err
}

func (s *Sender) load(ctx context.Context) (*ecdsa.PrivateKey, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key != nil {
		return s.key, s.public, nil
	}
	b, err := s.o.Key(ctx)
	if err != nil {
		return nil, "", err
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b)
	if err != nil {
		return nil, "", fmt.Errorf("the key for Web Push: %w", err)
	}
	pub, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, "", err
	}
	s.key, s.public = key, base64.RawURLEncoding.EncodeToString(pub)
	return s.key, s.public, nil
}

// Send encrypts a message and hands it to the browser's push service, which keeps
// it for ttl while the browser is away. Errors: ErrGone, ErrTooLarge, *Busy; others
// mean that it may be tried again.
func (s *Sender) Send(ctx context.Context, to Subscription, message []byte, urgent bool, ttl time.Duration) error {
	u, key, auth, err := to.parse()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	if len(message) > MaxMessage {
		return ErrTooLarge
	}
	body, err := encrypt(key, auth, message)
	if err != nil {
		return err
	}
	private, public, err := s.load(ctx)
	if err != nil {
		return err
	}
	token, err := sign(private, u.Scheme+"://"+u.Host, s.o.Subject(), time.Now())
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.Endpoint, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "vapid t="+token+", k="+public)
	req.Header.Set("Content-Encoding", "aes128gcm")
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("TTL", strconv.Itoa(int(ttl.Seconds())))
	if urgent {
		req.Header.Set("Urgency", "high")
	} else {
		req.Header.Set("Urgency", "normal")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		// The endpoint is the browser's secret; the host is enough to look for the cause.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("the push service %s cannot be reached: %w", u.Host, err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	switch c := resp.StatusCode; {
	case c/100 == 2:
		return nil
	case c == http.StatusNotFound, c == http.StatusGone, c == http.StatusUnauthorized, c == http.StatusForbidden:
		return fmt.Errorf("%w: %s answered %d", ErrGone, u.Host, c)
	case c == http.StatusRequestEntityTooLarge:
		return ErrTooLarge
	case c == http.StatusTooManyRequests, c == http.StatusServiceUnavailable:
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
			return &Busy{min(time.Duration(min(n, 1<<20))*time.Second, maxWait)}
		}
		fallthrough
	default:
		return fmt.Errorf("the push service %s answered %d", u.Host, c)
	}
}

// sign makes the token that tells a push service who sends. Spec: RFC 8292 section 2
func sign(key *ecdsa.PrivateKey, audience, subject string, now time.Time) (string, error) {
	claims, err := json.Marshal(map[string]any{"aud": audience, "exp": now.Add(tokenLife).Unix(), "sub": subject})
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"typ":"JWT","alg":"ES256"}`)) + "." + enc.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	r, t, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", err
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	t.FillBytes(sig[32:])
	return text + "." + enc.EncodeToString(sig[:]), nil
}

// encrypt is the body of a request with a message. Spec: RFC 8291, RFC 8188
func encrypt(to *ecdh.PublicKey, auth, message []byte) ([]byte, error) {
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	return seal(own, to, auth, salt, message)
}

func seal(own *ecdh.PrivateKey, to *ecdh.PublicKey, auth, salt, message []byte) ([]byte, error) {
	secret, err := own.ECDH(to)
	if err != nil {
		return nil, err
	}
	as := own.PublicKey().Bytes()
	input, err := hkdf.Key(sha256.New, secret, auth, "WebPush: info\x00"+string(to.Bytes())+string(as), 32)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, input, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, err
	}
	nonce, err := hkdf.Key(sha256.New, input, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	out := bytes.Clone(salt)
	out = binary.BigEndian.AppendUint32(out, recordSize)
	out = append(out, byte(len(as)))
	out = append(out, as...)
	// The one record is the last: its padding begins with 2.
	return gcm.Seal(out, nonce, append(bytes.Clone(message), 2), nil), nil
}
