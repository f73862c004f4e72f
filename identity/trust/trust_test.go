package trust

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestClient(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	own := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	base := &http.Client{Transport: &http.Transport{}}
	if _, err := base.Get(s.URL); err == nil {
		t.Fatal("it is trusted by all")
	}
	c, err := Client(base, own)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if _, err := base.Get(s.URL); err == nil {
		t.Fatal("now it is trusted by all")
	}
	if same, err := Client(base, ""); err != nil || same != base {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	for _, bad := range []string{"x", key, own + key, strings.Replace(own, "MII", "XXX", 1), strings.Repeat(own, 100)} {
		if _, err := Client(base, bad); !errors.Is(err, ErrPEM) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func FuzzPool(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := Pool(text); (p == nil) == (err == nil) {
			t.Fatal(err)
		}
	})
}
