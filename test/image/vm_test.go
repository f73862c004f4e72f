package image_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bootTime is how long a boot may take where the processor is emulated and busy.
const bootTime = 6 * time.Minute

// vm is a machine in QEMU.
type vm struct {
	t      testing.TB
	dir    string
	opt    options
	cmd    *exec.Cmd
	exited chan struct{}
	serial *serialLog
	qmp    *monitor
	// tpmGone is closed when the software TPM of the last start has ended.
	tpmGone chan struct{}
	// HTTPS and HTTP are the machine's ports 443 and 80 as this one reaches them.
	HTTPS, HTTP int
}

// options of a machine.
type options struct {
	arch     string   // "amd64" (default) or "arm64"
	disk     string   // raw image; written to
	diskArgs []string // instead of the usual virtio disk
	bus      string   // "virtio" (default), "nvme", "ahci", "usb"; "pvscsi", "megasas": the firmware is given the program, for it has no driver
	nic      string   // device model; "" is virtio-net-pci, "none" no card
	memory   int      // MiB; 0 is 1024
	secure   bool     // firmware with Secure Boot
	tpm      string   // folder of a software TPM's state; "" is none
	extra    []string // further arguments
	vars     string   // the firmware's variables; made when it is missing
	kernel   string   // started without firmware and boot loader, with initrd and cmdline
	initrd   string
	cmdline  string
}

// serialLog collects what the machine writes to its serial line.
type serialLog struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	news chan struct{}
}

func (s *serialLog) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Write(p)
	select {
	case s.news <- struct{}{}:
	default:
	}
	return len(p), nil
}

// from is what was written after the first n bytes.
func (s *serialLog) from(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()[n:]
}

func (s *serialLog) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Len()
}

// need skips a test where a program is missing, and fails it in CI.
func need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: make test-image installs it where it may", p)
			}
			t.Skipf("needs %s: apt-get install qemu-system-x86 qemu-system-arm qemu-utils ovmf qemu-efi-aarch64 swtpm", p)
		}
	}
}

func needFile(t testing.TB, paths ...string) string {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("none of %v is there", paths)
	}
	t.Skipf("needs one of %v", paths)
	return ""
}

// kvm reports whether the processor can really be lent to a machine: the device
// may be there and not work.
var kvm = sync.OnceValue(func() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	code := "/usr/share/OVMF/OVMF_CODE_4M.fd"
	out, _ := exec.CommandContext(ctx, "qemu-system-x86_64", "-enable-kvm", "-machine", "q35", "-cpu", "host", "-m", "256", "-display", "none", "-net", "none",
		"-serial", "none", "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+code).CombinedOutput()
	return ctx.Err() != nil && len(bytes.TrimSpace(out)) == 0 // it ran until it was stopped
})

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// copyFile copies a file, leaving holes where it is empty.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// start switches a machine on.
func start(t testing.TB, o options) *vm {
	t.Helper()
	if o.arch == "" {
		o.arch = "amd64"
	}
	if o.memory == 0 {
		o.memory = 1024
	}
	m := &vm{t: t, dir: t.TempDir(), opt: o, serial: &serialLog{news: make(chan struct{}, 1)}, HTTPS: freePort(t), HTTP: freePort(t)}
	if o.vars == "" {
		m.opt.vars = filepath.Join(m.dir, "vars.fd")
	}
	m.boot()
	t.Cleanup(func() {
		m.pullPlug()
		if t.Failed() {
			t.Logf("the serial line of %s, the last of it:\n%s", t.Name(), tail(clean(m.serial.from(0)), 6000))
		}
	})
	return m
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

var escapes = regexp.MustCompile("\x1b\\[[0-9;?=]*[a-zA-Z]|\x1b[()][A-Z0-9]|\x1b[=>78c]|\r")

// clean removes what moves a terminal's cursor.
func clean(s string) string { return escapes.ReplaceAllString(s, "") }

func (m *vm) boot() {
	m.t.Helper()
	o := m.opt
	var args []string
	program := "qemu-system-x86_64"
	switch {
	case o.kernel != "":
		need(m.t, program)
		if kvm() {
			args = append(args, "-machine", "q35,accel=kvm", "-cpu", "host")
		} else {
			args = append(args, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max")
		}
		args = append(args, "-smp", "2", "-kernel", o.kernel, "-initrd", o.initrd, "-append", o.cmdline)
	case o.arch == "amd64":
		code, vars := "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
		if o.secure {
			code = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
			args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
		}
		need(m.t, program)
		needFile(m.t, code)
		if _, err := os.Stat(o.vars); err != nil {
			copyFile(m.t, vars, o.vars)
		}
		machine := "q35"
		if o.secure {
			machine += ",smm=on"
		}
		if kvm() {
			args = append(args, "-machine", machine+",accel=kvm", "-cpu", "host")
		} else {
			args = append(args, "-machine", machine, "-accel", "tcg,thread=multi", "-cpu", "max")
		}
		args = append(args, "-smp", "2", "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+code, "-drive", "if=pflash,unit=1,format=raw,file="+o.vars)
	case o.arch == "arm64":
		program = "qemu-system-aarch64"
		need(m.t, program)
		code := needFile(m.t, "/usr/share/AAVMF/AAVMF_CODE.fd")
		if _, err := os.Stat(o.vars); err != nil {
			copyFile(m.t, "/usr/share/AAVMF/AAVMF_VARS.fd", o.vars)
		}
		args = append(args, "-machine", "virt", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+code, "-drive", "if=pflash,unit=1,format=raw,file="+o.vars)
	}
	args = append(args, "-m", strconv.Itoa(o.memory), "-display", "none", "-no-reboot", "-serial", "stdio",
		"-device", "virtio-rng-pci",
		"-qmp", "unix:"+filepath.Join(m.dir, "qmp")+",server=on,wait=off")
	switch {
	case o.diskArgs != nil:
		args = append(args, o.diskArgs...)
	default:
		drive := "if=none,id=hd,format=raw,cache=writeback,discard=unmap,file=" + o.disk
		args = append(args, "-drive", drive)
		switch o.bus {
		case "", "virtio":
			args = append(args, "-device", "virtio-blk-pci,drive=hd,bootindex=1")
		case "nvme":
			args = append(args, "-device", "nvme,drive=hd,serial=holdfast,bootindex=1")
		case "ahci":
			args = append(args, "-device", "ich9-ahci,id=sata", "-device", "ide-hd,drive=hd,bus=sata.0,bootindex=1")
		case "usb":
			args = append(args, "-device", "qemu-xhci", "-device", "usb-storage,drive=hd,bootindex=1")
		case "pvscsi":
			args = append(args, "-device", "pvscsi,id=scsi", "-device", "scsi-hd,drive=hd,bus=scsi.0", "-kernel", uki(m.t, o.disk))
		case "megasas":
			args = append(args, "-device", "megasas-gen2,id=scsi", "-device", "scsi-hd,drive=hd,bus=scsi.0", "-kernel", uki(m.t, o.disk))
		}
	}
	if o.nic != "none" {
		nic := o.nic
		if nic == "" {
			nic = "virtio-net-pci"
		}
		args = append(args, "-netdev", fmt.Sprintf("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:%d-:443,hostfwd=tcp:127.0.0.1:%d-:80", m.HTTPS, m.HTTP),
			"-device", nic+",netdev=n0,id=nic0")
	} else {
		args = append(args, "-nic", "none")
	}
	if o.tpm != "" {
		args = append(args, m.startTPM()...)
	}
	args = append(args, o.extra...)
	m.cmd = exec.Command(program, args...)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.cmd.Stdout = m.serial
	var stderr bytes.Buffer
	m.cmd.Stderr = &stderr
	stdin, err := m.cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.exited = make(chan struct{})
	go func(done chan struct{}) {
		m.cmd.Wait()
		close(done)
	}(m.exited)
	m.qmp = &monitor{stdin: stdin}
	if err := m.qmp.dial(filepath.Join(m.dir, "qmp"), m.exited); err != nil {
		m.t.Fatalf("%v\n%s", err, &stderr)
	}
}

// startTPM starts a software TPM whose state stays in a folder.
func (m *vm) startTPM() []string {
	need(m.t, "swtpm")
	if err := os.MkdirAll(m.opt.tpm, 0o700); err != nil {
		m.t.Fatal(err)
	}
	sock := filepath.Join(m.dir, "tpm")
	os.Remove(sock)
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+m.opt.tpm, "--ctrl", "type=unixio,path="+sock, "--terminate")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	m.t.Cleanup(func() { cmd.Process.Kill(); <-done })
	m.tpmGone = done
	for range 100 {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	tis := "tpm-tis"
	if m.opt.arch == "arm64" {
		tis = "tpm-tis-device"
	}
	return []string{"-chardev", "socket,id=chrtpm,path=" + sock, "-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", tis + ",tpmdev=tpm0"}
}

// await waits until the serial line has something that matches after position n.
func (m *vm) await(n int, what string, limit time.Duration) []string {
	m.t.Helper()
	re := regexp.MustCompile(what)
	deadline := time.After(limit)
	for {
		if got := re.FindStringSubmatch(clean(m.serial.from(n))); got != nil {
			return got
		}
		select {
		case <-m.serial.news:
		case <-m.exited:
			if got := re.FindStringSubmatch(clean(m.serial.from(n))); got != nil {
				return got
			}
			m.t.Fatalf("the machine went off before its serial line had %q", what)
		case <-deadline:
			m.t.Fatalf("the serial line never had %q", what)
		}
	}
}

// ready waits until the appliance says that it is, and returns the version.
func (m *vm) ready(n int) string {
	m.t.Helper()
	return m.await(n, `HOLDFAST READY version=(\S+) `, bootTime)[1]
}

// off waits until the machine is switched off: an orderly restart ends QEMU, too,
// since it is told not to start again by itself.
func (m *vm) off(limit time.Duration) {
	m.t.Helper()
	select {
	case <-m.exited:
	case <-time.After(limit):
		m.t.Fatal("the machine did not stop")
	}
	m.tpmEnd()
	m.qmp.close()
}

// again starts the machine after off or pullPlug, and returns where its serial
// line begins anew.
func (m *vm) again() int {
	m.t.Helper()
	n := m.serial.len()
	m.boot()
	return n
}

// pullPlug ends the machine as a power cut does, but for what the host still holds.
func (m *vm) pullPlug() {
	m.cmd.Process.Kill()
	<-m.exited
	m.tpmEnd()
	m.qmp.close()
}

// tpmEnd waits for the software TPM, which ends with its machine but not at the same
// moment: its state is used again.
func (m *vm) tpmEnd() {
	if m.tpmGone != nil {
		<-m.tpmGone
	}
}

// powerButton is the machine's own.
func (m *vm) powerButton() {
	m.t.Helper()
	m.qmp.must(m.t, "system_powerdown", nil)
	m.off(2 * time.Minute)
}

// typeSerial types on the serial line.
func (m *vm) typeSerial(s string) { io.WriteString(m.qmp.stdin, s) }

// monitor is QEMU's control socket (QMP).
type monitor struct {
	stdin io.WriteCloser
	conn  net.Conn
	r     *bufio.Reader
	mu    sync.Mutex
}

func (q *monitor) dial(path string, exited chan struct{}) (err error) {
	for range 200 {
		if q.conn, err = net.Dial("unix", path); err == nil {
			break
		}
		select {
		case <-exited:
			return errors.New("QEMU ended at once")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err != nil {
		return err
	}
	q.r = bufio.NewReader(q.conn)
	if _, err := q.r.ReadBytes('\n'); err != nil { // the greeting
		return err
	}
	_, err = q.do("qmp_capabilities", nil)
	return err
}

// do gives a command and waits for its answer; events in between are passed over.
func (q *monitor) do(command string, args any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	in := map[string]any{"execute": command}
	if args != nil {
		in["arguments"] = args
	}
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, err
	}
	for {
		line, err := q.r.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		var out struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
			Event  string
		}
		if err := json.Unmarshal(line, &out); err != nil {
			return nil, err
		}
		switch {
		case out.Event != "":
		case out.Error != nil:
			return nil, errors.New(out.Error.Desc)
		default:
			return out.Return, nil
		}
	}
}

func (q *monitor) must(t testing.TB, command string, args any) json.RawMessage {
	t.Helper()
	out, err := q.do(command, args)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return out
}

func (q *monitor) close() {
	if q.conn != nil {
		q.conn.Close()
	}
	q.stdin.Close()
}

// client is a browser that has clicked through the warning of the machine's own
// certificate, and keeps cookies and a token.
type client struct {
	t     testing.TB
	base  string
	http  *http.Client
	token string
}

func (m *vm) client() *client {
	jar, _ := cookiejar.New(nil)
	return &client{t: m.t, base: fmt.Sprintf("https://127.0.0.1:%d", m.HTTPS),
		http: &http.Client{Timeout: 3 * time.Minute, Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}}
}

// ask sends a request and decodes the answer; it fails the test unless the status
// is want.
func (c *client) ask(method, path string, in any, want int) map[string]any {
	c.t.Helper()
	status, out, err := c.try(method, path, in)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	if status != want {
		c.t.Fatalf("%s %s: %d %v, want %d", method, path, status, out, want)
	}
	return out
}

// list is try for an answer that is a list.
func (c *client) list(method, path string) (int, []any, error) {
	status, raw, err := c.raw(method, path, nil)
	var out []any
	json.Unmarshal(raw, &out)
	return status, out, err
}

func (c *client) try(method, path string, in any) (int, map[string]any, error) {
	status, raw, err := c.raw(method, path, in)
	out := map[string]any{}
	json.Unmarshal(raw, &out)
	return status, out, err
}

func (c *client) raw(method, path string, in any) (int, []byte, error) {
	var body io.Reader
	kind := "application/json"
	switch in := in.(type) {
	case nil:
	case io.Reader:
		body, kind = struct{ io.Reader }{in}, "application/octet-stream" // not closed: it may be sent again
	default:
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, c.base+path, body)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, raw, err
}

// run runs a program of the test's own.
func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}
