// Package directorytest runs a real LDAP server, Debian's slapd, for tests.
//
// Invariants: it listens on loopback only, keeps its data in a folder of its own, and
// ends with the test; nothing of the machine's own slapd is touched.
package directorytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"holdfast/test/need"
)

// Who may do everything in the directory.
const (
	Base     = "dc=example,dc=org"
	AdminDN  = "cn=admin," + Base
	Password = "the reader's password"
)

// Server is a running slapd.
type Server struct {
	t         testing.TB
	dir       string
	cmd       *exec.Cmd
	out       bytes.Buffer
	port, tls int

	URL, TLSURL string // ldap:// with StartTLS, ldaps://
	CA          string // PEM
}

// Start starts a directory with the units people and groups. The test stops it.
func Start(t testing.TB) *Server {
	t.Helper()
	need.Program(t, "slapd", "slapd")
	dir, err := os.MkdirTemp("", "slapd")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir, port: freePort(t), tls: freePort(t)}
	t.Cleanup(func() { s.Stop(); os.RemoveAll(dir) })
	s.URL, s.TLSURL = fmt.Sprintf("ldap://127.0.0.1:%d", s.port), fmt.Sprintf("ldaps://127.0.0.1:%d", s.tls)
	s.certificate()
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.configure(`TLSCACertificateFile %[1]s/ca.pem
TLSCertificateFile %[1]s/ca.pem
TLSCertificateKeyFile %[1]s/key.pem
`)
	s.Run()
	s.Add(Base, "objectClass: dcObject", "objectClass: organization", "o: example", "dc: example")
	for _, ou := range []string{"people", "groups"} {
		s.Add("ou="+ou+","+Base, "objectClass: organizationalUnit")
	}
	return s
}

// WithoutTLS has the server know nothing of TLS any more, not even StartTLS.
func (s *Server) WithoutTLS() {
	s.t.Helper()
	s.Stop()
	s.TLSURL, s.tls = "", s.port
	s.configure("")
	s.Run()
}

// configure writes the settings of slapd; more comes before those of the database.
func (s *Server) configure(more string) {
	s.write("slapd.conf", fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/msuser.schema
attributetype ( 2.16.128.113533.1.1400.1 NAME 'thumbnailPhoto' SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 SINGLE-VALUE )
pidfile %[1]s/pid
argsfile %[1]s/args
modulepath /usr/lib/ldap
moduleload back_mdb
`+more+`sizelimit 500
database mdb
maxsize 1073741824
dbnosync
suffix "%[2]s"
rootdn "%[3]s"
rootpw "%[4]s"
directory %[1]s/db
index objectClass,uid,member,memberUid eq
access to attrs=userPassword by anonymous auth by * none
access to * by users read by anonymous auth by * none
`, s.dir, Base, AdminDN, Password))
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) write(name, text string) {
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) certificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "directory"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.write("ca.pem", s.CA)
	s.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// Run starts the server, also again after Stop.
func (s *Server) Run() {
	s.t.Helper()
	s.cmd = exec.Command(need.Program(s.t, "slapd", "slapd"), "-f", filepath.Join(s.dir, "slapd.conf"), "-h", strings.TrimSpace(s.URL+" "+s.TLSURL), "-d", "0")
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.tls))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			s.Stop()
			s.t.Fatalf("slapd does not answer: %v\n%s", err, s.out.String())
		}
	}
}

// Stop ends the server at once, as when its machine goes.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

func (s *Server) do(f func(c *ldap.Conn) error) {
	s.t.Helper()
	c, err := ldap.DialURL(s.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err = c.Bind(AdminDN, Password); err == nil {
		err = f(c)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func split(lines []string) (out []ldap.Attribute) {
	at := map[string]int{}
	for _, l := range lines {
		k, v, _ := strings.Cut(l, ": ")
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, ldap.Attribute{Type: k})
		}
		out[i].Vals = append(out[i].Vals, v)
	}
	return out
}

// Add adds an entry; each line is "attribute: value".
func (s *Server) Add(dn string, lines ...string) {
	s.t.Helper()
	s.do(func(c *ldap.Conn) error { return c.Add(&ldap.AddRequest{DN: dn, Attributes: split(lines)}) })
}

// Person is the DN of somebody below the unit people.
func Person(uid string) string { return "uid=" + uid + ",ou=people," + Base }

// AddPerson adds somebody with a password.
func (s *Server) AddPerson(uid, full, password string) {
	s.t.Helper()
	s.Add(Person(uid), "objectClass: inetOrgPerson", "uid: "+uid, "cn: "+full, "sn: "+full, "displayName: "+full, "mail: "+uid+"@example.org", "userPassword: "+password)
}

// AddPeople adds n people without passwords, prefix0 and on, over one connection.
func (s *Server) AddPeople(prefix string, n int) {
	s.t.Helper()
	s.do(func(c *ldap.Conn) error {
		for i := range n {
			uid := fmt.Sprintf("%s%d", prefix, i)
			if err := c.Add(&ldap.AddRequest{DN: Person(uid), Attributes: split([]string{"objectClass: inetOrgPerson", "uid: " + uid, "cn: " + uid, "sn: " + uid})}); err != nil {
				return err
			}
		}
		return nil
	})
}

// AddGroup adds a group of the members' DNs.
func (s *Server) AddGroup(name string, members ...string) string {
	s.t.Helper()
	dn := "cn=" + name + ",ou=groups," + Base
	lines := []string{"objectClass: groupOfNames"}
	for _, m := range members {
		lines = append(lines, "member: "+m)
	}
	s.Add(dn, lines...)
	return dn
}

// Set replaces an attribute; without values it is removed.
func (s *Server) Set(dn, attr string, values ...string) {
	s.t.Helper()
	s.do(func(c *ldap.Conn) error {
		m := ldap.NewModifyRequest(dn, nil)
		m.Replace(attr, values)
		return c.Modify(m)
	})
}

// Rename gives an entry another name in its place.
func (s *Server) Rename(dn, rdn string) {
	s.t.Helper()
	s.do(func(c *ldap.Conn) error { return c.ModifyDN(ldap.NewModifyDNRequest(dn, rdn, true, "")) })
}

// Delete removes an entry.
func (s *Server) Delete(dn string) {
	s.t.Helper()
	s.do(func(c *ldap.Conn) error { return c.Del(ldap.NewDelRequest(dn, nil)) })
}

// Picture draws a square picture, as "jpeg", "png" or "gif"; another shade is another one.
func Picture(format string, side int, shade uint8) string {
	m := image.NewPaletted(image.Rect(0, 0, side, side), color.Palette{color.Gray{Y: shade}, color.White})
	var out bytes.Buffer
	var err error
	switch format {
	case "jpeg":
		err = jpeg.Encode(&out, m, nil)
	case "png":
		err = png.Encode(&out, m)
	case "gif":
		err = gif.Encode(&out, m, nil)
	}
	if err != nil {
		panic(err)
	}
	return out.String()
}
