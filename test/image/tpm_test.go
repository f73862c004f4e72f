package image_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// protection asks the console how the data is protected.
func (s *site) protection() (encrypted, tpm, passphrase bool, warning string) {
	s.t.Helper()
	d := s.admin.ask("GET", machineAPI, nil, 200)["disk"].(map[string]any)
	warning, _ = d["warning"].(string)
	return d["encrypted"].(bool), d["tpm"].(bool), d["passphrase"].(bool), warning
}

// recovery makes a recovery passphrase in the console, types it wrong, and then right.
func (s *site) recovery() string {
	s.t.Helper()
	s.signIn()
	pass := s.admin.ask("POST", machineAPI+"/recovery", nil, 200)["passphrase"].(string)
	out := s.admin.ask("POST", machineAPI+"/recovery/confirm", map[string]string{"passphrase": other(pass)}, 400)
	if e, _ := out["error"].(map[string]any); e["code"] != "wrong_passphrase" {
		s.t.Errorf("a wrong passphrase is confirmed with %v", out)
	}
	if _, _, there, warning := s.protection(); there || warning == "" {
		s.t.Errorf("after a wrong confirmation the passphrase is in force (%v), warning %q", there, warning)
	}
	// Nobody types capitals and dashes who does not have to.
	s.admin.ask("POST", machineAPI+"/recovery/confirm", map[string]string{"passphrase": strings.ToLower(strings.ReplaceAll(pass, "-", " "))}, 200)
	return pass
}

// other is a passphrase of the same form that is wrong by one sign.
func other(pass string) string {
	if pass[0] == 'A' {
		return "B" + pass[1:]
	}
	return "A" + pass[1:]
}

const lockedLine = `HOLDFAST LOCKED`

// readyAlone waits until the machine is ready, and fails if it asked for the
// passphrase before.
func (m *vm) readyAlone(n int) {
	m.t.Helper()
	if got := m.await(n, `HOLDFAST READY|`+lockedLine, bootTime)[0]; got == lockedLine {
		m.t.Fatal("the machine asks for the recovery passphrase")
	}
}

// locked waits until the machine asks for the passphrase, and fails if it starts
// without.
func (m *vm) locked(n int) {
	m.t.Helper()
	if got := m.await(n, `HOLDFAST READY|`+lockedLine, bootTime)[0]; got != lockedLine {
		m.t.Fatal("the machine opened its data without a passphrase")
	}
}

// typePassphrase types it on the page that a locked machine serves.
func (m *vm) typePassphrase(pass string) int {
	m.t.Helper()
	c := m.client()
	for end := time.Now().Add(bootTime); ; time.Sleep(time.Second) {
		req, err := http.NewRequest("POST", c.base+"/", strings.NewReader(url.Values{"passphrase": {pass}}.Encode()))
		if err != nil {
			m.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		resp, err := c.http.Do(req)
		if err == nil {
			resp.Body.Close()
			return resp.StatusCode
		}
		if time.Now().After(end) {
			m.t.Fatalf("the page for the passphrase is not there: %v", err)
		}
	}
}

// TestTPM has the data opened by the chip, until the disk is in another machine: then
// the recovery passphrase opens it, and afterwards the other machine's chip.
func TestTPM(t *testing.T) {
	m := start(t, options{disk: disk(t, 2), tpm: t.TempDir()})
	m.readyAlone(0)
	s := claim(t, m)
	s.mustSend()
	s.signIn()
	if encrypted, tpm, pass, warning := s.protection(); !encrypted || !tpm || pass || !strings.Contains(warning, "recovery passphrase") {
		t.Fatalf("first boot with a TPM: encrypted %v, TPM %v, passphrase %v, warning %q", encrypted, tpm, pass, warning)
	}
	pass := s.recovery()
	if encrypted, tpm, there, warning := s.protection(); !encrypted || !tpm || !there || !strings.Contains(warning, "Secure Boot is off") {
		t.Errorf("with a recovery passphrase: encrypted %v, TPM %v, passphrase %v, warning %q", encrypted, tpm, there, warning)
	}
	m.powerButton()
	m.readyAlone(m.again())
	s.check()
	s.mustSend()
	m.powerButton()

	m.opt.tpm = t.TempDir() // another machine's
	n := m.again()
	m.locked(n)
	if got := m.typePassphrase(other(pass)); got != http.StatusForbidden {
		t.Errorf("a wrong passphrase: %d, want 403", got)
	}
	// A client comes again later, and gets no answer that it could take for good.
	if status, out, err := s.admin.try("GET", "/_matrix/client/versions", nil); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("a client of the locked machine: %d %v %v", status, out, err)
	}
	if got := m.typePassphrase(pass); got != http.StatusOK {
		t.Fatalf("the right passphrase: %d, want 200", got)
	}
	m.ready(n)
	s.check()
	s.mustSend()
	if encrypted, tpm, there, _ := s.protection(); !encrypted || !tpm || !there {
		t.Errorf("after the passphrase: encrypted %v, TPM %v, passphrase %v", encrypted, tpm, there)
	}
	m.powerButton()
	m.readyAlone(m.again())
	s.check()
}

// TestPassphrase has no TPM: the data is not protected until a recovery passphrase was
// confirmed, which is then asked for at each start and typed on the serial console.
func TestPassphrase(t *testing.T) {
	m := start(t, options{disk: disk(t, 2)})
	m.readyAlone(0)
	s := claim(t, m)
	s.mustSend()
	s.signIn()
	if encrypted, tpm, pass, warning := s.protection(); encrypted || tpm || pass || !strings.Contains(warning, "not protected") {
		t.Fatalf("first boot without a TPM: encrypted %v, TPM %v, passphrase %v, warning %q", encrypted, tpm, pass, warning)
	}
	m.await(0, "NOT ENCRYPTED", bootTime)
	pass := s.recovery()
	if encrypted, tpm, there, warning := s.protection(); !encrypted || tpm || !there || warning != "" {
		t.Errorf("with a recovery passphrase: encrypted %v, TPM %v, passphrase %v, warning %q", encrypted, tpm, there, warning)
	}
	m.powerButton()

	n := m.again()
	m.locked(n)
	m.typeSerial("\r")
	m.await(n, `dashes and capitals do\s+not matter`, bootTime)
	m.typeSerial(other(pass) + "\r")
	m.await(n, `passphrase\s+does\s+not\s+open\s+the\s+data`, bootTime)
	m.typeSerial(strings.ToLower(pass) + "\r")
	m.ready(n)
	if strings.Contains(strings.ToUpper(clean(m.serial.from(n))), pass) {
		t.Error("the passphrase was shown")
	}
	s.check()
	s.mustSend()
	s.check()
}
