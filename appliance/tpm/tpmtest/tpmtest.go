// Package tpmtest starts TPM chips in software.
package tpmtest

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Start gives a machine a chip whose state is in dir, just switched on. PCR 7 is
// extended with each of the events, as by a firmware. Closing it takes its power.
func Start(t testing.TB, dir string, events ...string) io.ReadWriteCloser {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("swtpm is not there: apt-get install swtpm")
		}
		t.Skip("swtpm is not there: apt-get install swtpm")
	}
	// The path of a socket must be short.
	run, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	socket := filepath.Join(run, "s")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	t.Cleanup(stop)
	var conn net.Conn
	for range 500 {
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err, log.String())
	}
	c := plugged{conn, stop}
	t.Cleanup(func() { c.Close() })
	for _, e := range events {
		Extend(t, c, e)
	}
	return c
}

// plugged is a chip that loses its power when it is let go.
type plugged struct {
	net.Conn
	stop func()
}

func (p plugged) Close() error {
	err := p.Conn.Close()
	p.stop()
	return err
}

// Extend measures something more into PCR 7.
func Extend(t testing.TB, chip io.ReadWriter, event string) {
	t.Helper()
	sum := sha256.Sum256([]byte(event))
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(7), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: sum[:]}}},
	}.Execute(transport.FromReadWriter(chip))
	if err != nil {
		t.Fatal(err)
	}
}
