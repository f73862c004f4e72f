package image_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// debian is a small Debian in QEMU, where the test says what is done as root.
type debian struct {
	*vm
	t     testing.TB
	agent net.Conn
	r     *bufio.Reader
	old   string // versions of the packages and programs in /payload
	new   string
}

// startDebian boots a fresh copy of what test/image/run-systemd made.
func startDebian(t *testing.T) *debian {
	t.Helper()
	dir := os.Getenv("HOLDFAST_DEBIAN")
	if dir == "" {
		t.Skip("HOLDFAST_DEBIAN is not set: make test-systemd makes a Debian and sets it")
	}
	suite := filepath.Join(dir, os.Getenv("HOLDFAST_DEBIAN_SUITE"))
	version := func(which string) string {
		b, err := os.ReadFile(filepath.Join(dir, "payload", which+".version"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	port := filepath.Join(t.TempDir(), "agent")
	d := &debian{t: t, old: version("old"), new: version("new")}
	d.vm = start(t, options{
		disk: diskOf(t, filepath.Join(suite, "root.raw"), 0), kernel: filepath.Join(suite, "vmlinuz"), initrd: filepath.Join(suite, "initrd"),
		cmdline: "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=5",
		extra: []string{"-drive", "if=virtio,format=raw,readonly=on,file=" + filepath.Join(dir, "payload.raw"),
			"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + port, "-device", "virtserialport,chardev=agent,name=agent"},
	})
	d.meet(port)
	return d
}

// meet waits for the machine's agent.
func (d *debian) meet(port string) {
	d.t.Helper()
	var err error
	if d.agent, err = net.Dial("unix", port); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { d.agent.Close() })
	d.r = bufio.NewReader(d.agent)
	d.agent.SetReadDeadline(time.Now().Add(bootTime))
	if line, err := d.r.ReadString('\n'); err != nil || line != "hello\n" {
		d.t.Fatalf("the machine's agent says %q, %v", line, err)
	}
}

// try runs a shell command as root, and says so: a test of minutes shows where it is.
func (d *debian) try(cmd string) (out string, code int) {
	d.t.Helper()
	d.t.Logf("# %s", cmd)
	return d.quietly(cmd)
}

func (d *debian) quietly(cmd string) (out string, code int) {
	d.t.Helper()
	if _, err := fmt.Fprintln(d.agent, base64.StdEncoding.EncodeToString([]byte(cmd))); err != nil {
		d.t.Fatal(err)
	}
	d.agent.SetReadDeadline(time.Now().Add(10 * time.Minute))
	line, err := d.r.ReadString('\n')
	if err != nil {
		d.t.Fatalf("%s: %v", cmd, err)
	}
	word, b64, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	raw, err := base64.StdEncoding.DecodeString(b64)
	code, bad := strconv.Atoi(word)
	if err != nil || bad != nil {
		d.t.Fatalf("%s: the agent answers %q", cmd, line)
	}
	return string(raw), code
}

// sh is try for a command that must work.
func (d *debian) sh(cmd string) string {
	d.t.Helper()
	out, code := d.try(cmd)
	if code != 0 {
		d.t.Fatalf("%s: exit code %d\n%s", cmd, code, out)
	}
	return out
}

// refused is try for a command that must fail, and say so with some words.
func (d *debian) refused(cmd string, words ...string) {
	d.t.Helper()
	out, code := d.try(cmd)
	if code == 0 {
		d.t.Errorf("%s works:\n%s", cmd, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			d.t.Errorf("%s does not say %q:\n%s", cmd, w, out)
		}
	}
}

// says is sh for a command whose output must have some words.
func (d *debian) says(cmd string, words ...string) string {
	d.t.Helper()
	out := d.sh(cmd)
	for _, w := range words {
		if !strings.Contains(out, w) {
			d.t.Errorf("%s does not say %q:\n%s", cmd, w, out)
		}
	}
	return out
}

// property is one of the unit's.
func (d *debian) property(name string) string {
	d.t.Helper()
	out, code := d.quietly("systemctl show --value -p " + name + " holdfast")
	if code != 0 {
		d.t.Fatal(out)
	}
	return strings.TrimSpace(out)
}

// is compares a property of the unit.
func (d *debian) is(name, want string) {
	d.t.Helper()
	if got := d.property(name); got != want {
		d.t.Errorf("%s of the unit is %q, want %q\n%s", name, got, want, d.journal())
	}
}

// until waits until a shell command works.
func (d *debian) until(cmd string) {
	d.t.Helper()
	d.t.Logf("until # %s", cmd)
	for deadline := time.Now().Add(bootTime); ; time.Sleep(time.Second) {
		out, code := d.quietly(cmd)
		if code == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s: never\n%s\n%s", cmd, out, d.journal())
		}
	}
}

func (d *debian) journal() string {
	d.t.Helper()
	// Not what a program writes that is ended by the watchdog: the state of all it did.
	out, _ := d.try("journalctl --no-pager -o short-monotonic -u holdfast | grep -E 'level=|systemd\\[' | tail -n 60")
	return out
}

// claimed claims the appliance by the code that the command line gives.
func (d *debian) claimed() (s *site, code string) {
	d.t.Helper()
	var c struct{ Code, URL string }
	if err := json.Unmarshal([]byte(d.sh("holdfast claim --json")), &c); err != nil {
		d.t.Fatal(err)
	}
	if !strings.HasSuffix(c.URL, "/setup") {
		d.t.Errorf("the setup is at %q", c.URL)
	}
	return claimBy(d.t, d.vm, c.Code), c.Code
}

// secretsIn fails when one of the words is in what the machine logs.
func (d *debian) secretsIn(words ...string) {
	d.t.Helper()
	log := d.sh("journalctl --no-pager -o verbose")
	if !strings.Contains(log, "_SYSTEMD_UNIT=holdfast.service") {
		d.t.Error("the journal has nothing of the service")
	}
	for _, w := range words {
		if w == "" || strings.Contains(strings.ToLower(log), strings.ToLower(w)) {
			d.t.Errorf("the journal has the secret %q", w)
		}
	}
}

// version asks the appliance that runs.
func (d *debian) running() string {
	d.t.Helper()
	out, _ := d.try("holdfast doctor --json")
	var list []struct {
		Name, Detail string
		OK           bool
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	for _, f := range list {
		if !f.OK {
			d.t.Errorf("the doctor finds %s: %s", f.Name, f.Detail)
		}
	}
	return strings.TrimSpace(strings.TrimPrefix(d.sh("$(readlink /proc/$(systemctl show --value -p MainPID holdfast)/exe) version --json | sed -n 's/.*\"version\": \"\\(.*\\)\".*/\\1/p'"), "v"))
}

const install = "DEBIAN_FRONTEND=noninteractive apt-get -qy install "

// TestSystemdPackage is the life of the Debian package: installed, claimed, used,
// watched, updated, started again with the machine, removed, and purged.
func TestSystemdPackage(t *testing.T) {
	d := startDebian(t)
	// Into a root folder where no systemd runs, as images are made: it is enabled there.
	d.sh("mkdir /root/up /root/work /root/low && mount -t tmpfs none /root/up && mkdir /root/up/up /root/up/work && mount -t overlay overlay -o lowerdir=/,upperdir=/root/up/up,workdir=/root/up/work /root/low && mount --bind /payload /root/low/payload && mount -t proc proc /root/low/proc")
	d.sh("chroot /root/low dpkg -i /payload/old.deb && test -L /root/low/etc/systemd/system/multi-user.target.wants/holdfast.service && test -n \"$(chroot /root/low getent passwd holdfast)\" && umount -R /root/low")
	d.refused("systemctl cat holdfast")

	out := d.says(install+"/payload/old.deb", "Holdfast runs.", "holdfast claim")
	if claimCode.MatchString(out) {
		t.Errorf("the installation shows a claim code:\n%s", out)
	}
	d.is("ActiveState", "active")
	d.is("UnitFileState", "enabled")
	d.is("Type", "notify")
	d.is("WatchdogUSec", "2min")
	if got := d.running(); got != d.old {
		t.Errorf("version %s runs, want %s", got, d.old)
	}
	d.says("stat -c '%U %G %a' /var/lib/holdfast /etc/holdfast/appliance.toml", "holdfast holdfast 700", "root holdfast 640")
	d.refused("setpriv --reuid=nobody --regid=nogroup --clear-groups holdfast claim")
	s, code := d.claimed()
	s.mustSend()

	// Someone makes her own account, once the administrator lets her.
	d.sh("sed -i 's/^#* *open = false/open = true/' /etc/holdfast/appliance.toml && systemctl restart holdfast")
	d.says("holdfast config print", "open = true  # /etc/holdfast/appliance.toml:")
	bob := d.client()
	reg := bob.ask("POST", "/_matrix/client/v3/register", map[string]any{"username": "bob", "password": "a secret of bob", "auth": map[string]string{"type": "m.login.dummy"}}, 200)
	bob.token = reg["access_token"].(string)
	s.check() // what was there before the restart
	s.admin.ask("POST", "/_matrix/client/v3/rooms/"+url.PathEscape(s.room)+"/invite", map[string]any{"user_id": reg["user_id"]}, 200)
	bob.ask("POST", "/_matrix/client/v3/join/"+url.PathEscape(s.room), map[string]any{}, 200)
	s.mustSend()
	bob.ask("PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(s.room)+"/send/m.room.message/b1", map[string]string{"msgtype": "m.text", "body": "from bob"}, 200)
	s.check()

	t.Run("calls", func(t *testing.T) {
		d.says("ss -Hlnup", ":7882 ", ":3478 ")
		d.says("/payload/probe stun $(ip -4 -o addr show eth0 | sed 's/.* inet \\([0-9.]*\\).*/\\1/'):3478", "answered")
	})
	t.Run("sandbox", func(t *testing.T) { d.sandbox(t) })
	t.Run("rating", func(t *testing.T) {
		out := d.sh("systemd-analyze security --no-pager holdfast | tail -n 1")
		m := regexp.MustCompile(`: ([0-9.]+) `).FindStringSubmatch(out)
		if m == nil {
			t.Fatal(out)
		}
		if n, err := strconv.ParseFloat(m[1], 64); err != nil || n > 2 {
			t.Errorf("systemd rates it %s, more than 2", m[1])
		}
		t.Log(out)
	})
	d.dies(s)
	d.stops(s)

	// A newer one. The administrator's configuration stays, and nothing is asked.
	d.says(install+"/payload/new.deb", "holdfast")
	if got := d.running(); got != d.new {
		t.Errorf("after the update version %s runs, want %s", got, d.new)
	}
	d.sh("grep -qx 'open = true' /etc/holdfast/appliance.toml")
	s.check()
	s.mustSend()

	// The machine starts again.
	port := d.agent.RemoteAddr().String()
	d.try("systemctl reboot --no-block")
	d.off(5 * time.Minute)
	d.agent.Close()
	d.again()
	d.meet(port)
	d.until("systemctl is-active holdfast")
	s.check()
	d.says("systemctl --failed --no-legend | wc -l", "0")

	// What was switched off stays off, whatever is installed.
	d.sh("systemctl disable --now holdfast")
	d.sh(install + "--reinstall /payload/new.deb")
	d.refused("systemctl is-active holdfast")
	d.refused("systemctl is-enabled holdfast")
	d.sh("systemctl enable --now holdfast")

	// A port that is taken is said, and is no broken package.
	d.sh("systemctl stop holdfast; systemd-run --quiet --unit=squatter systemd-socket-activate -l 443 /bin/cat; sleep 1")
	d.until("ss -Hlnt | grep -q :443")
	d.says(install+"--reinstall /payload/new.deb 2>&1", "does not run", "journalctl -u holdfast")
	d.says("dpkg-query -W -f '${Status}' holdfast", "install ok installed")
	d.says("journalctl -u holdfast", ":443 is used by another program")
	d.sh("systemctl stop squatter")
	d.until("systemctl is-active holdfast")
	s.check()

	// Removed, and installed again: all is as before.
	d.sh("DEBIAN_FRONTEND=noninteractive apt-get -qy remove holdfast")
	d.refused("systemctl is-active holdfast")
	d.refused("test -e /usr/bin/holdfast")
	d.sh("test -e /etc/holdfast/appliance.toml && test -e /var/lib/holdfast/holdfast.db")
	d.sh(install + "/payload/new.deb")
	d.is("ActiveState", "active")
	d.is("UnitFileState", "enabled")
	s.check()
	d.says("dpkg --verify holdfast | grep -v -e appliance.toml -e /usr/share/doc/ | wc -l", "0")

	d.says("DEBIAN_FRONTEND=noninteractive apt-get -qy purge holdfast", "/var/lib/holdfast")
	d.refused("systemctl cat holdfast")
	d.refused("test -e /etc/holdfast || test -e /usr/bin/holdfast || test -e /usr/share/doc/holdfast")
	d.says("find /etc/systemd /var/lib/systemd -name '*holdfast*' | grep -v timers | wc -l", "0")
	d.says("stat -c '%U' /var/lib/holdfast/holdfast.db", "holdfast")
	d.says("systemctl --failed --no-legend | wc -l", "0")

	d.secretsIn(code, strings.ReplaceAll(code, "-", ""), password, "a secret of bob", bob.token, s.admin.token, "message 1", "from bob")
}

// TestSystemdInstall is the life of a program that installs itself, down to its
// replacement by the package.
func TestSystemdInstall(t *testing.T) {
	d := startDebian(t)
	d.refused("setpriv --reuid=nobody --regid=nogroup --clear-groups /payload/holdfast-old install", "only root")
	d.says("/payload/holdfast-old install --dry-run", "would write /etc/systemd/system/holdfast.service")
	d.refused("test -e /usr/local/bin/holdfast || test -e /etc/holdfast || test -n \"$(getent passwd holdfast)\"")
	out := d.says("/payload/holdfast-old install", "Holdfast "+d.old+" runs")
	code := claimCode.FindString(out)
	if code == "" {
		t.Fatalf("install shows no claim code:\n%s", out)
	}
	d.is("ActiveState", "active")
	d.is("UnitFileState", "enabled")
	d.says("stat -c '%U %G %a' /var/lib/holdfast /etc/holdfast/appliance.toml", "holdfast holdfast 700", "root holdfast 640")
	s := claimBy(t, d.vm, code)
	s.mustSend()

	// An own change of the unit stays through the update.
	d.sh("mkdir /etc/systemd/system/holdfast.service.d && printf '[Service]\\nWatchdogSec=3min\\n' >/etc/systemd/system/holdfast.service.d/override.conf")
	d.says("/payload/holdfast-new install", "Holdfast "+d.new+" runs")
	if got := d.running(); got != d.new {
		t.Errorf("after the update version %s runs, want %s", got, d.new)
	}
	d.is("WatchdogUSec", "3min")
	s.check()

	// The package does not come upon it.
	d.refused(install+"/payload/new.deb", "holdfast uninstall")
	d.is("ActiveState", "active")
	d.says("holdfast uninstall", "stay")
	d.refused("systemctl is-active holdfast")
	d.refused("test -e /usr/local/bin/holdfast || test -e /etc/systemd/system/holdfast.service || test -e /etc/sysusers.d/holdfast.conf")
	d.sh("test -e /etc/holdfast/appliance.toml && test -e /var/lib/holdfast/holdfast.db")
	d.refused("/payload/holdfast-new uninstall", "not installed")

	// It goes on with what is there; and then the program keeps its hands off.
	d.sh(install + "-o Dpkg::Options::=--force-confold /payload/new.deb")
	d.is("ActiveState", "active")
	s.check()
	s.mustSend()
	for _, do := range []string{"install", "uninstall"} {
		d.refused("/payload/holdfast-new "+do, "package")
	}
	d.is("ActiveState", "active")
	d.secretsIn(code, strings.ReplaceAll(code, "-", ""), password, s.admin.token)
}

// dies has the program killed, and hang: each time it is started anew, and nothing
// that was acknowledged is lost.
func (d *debian) dies(s *site) {
	d.t.Helper()
	d.sh("mkdir -p /run/systemd/system/holdfast.service.d && printf '[Service]\\nWatchdogSec=40\\n' >/run/systemd/system/holdfast.service.d/quick.conf && systemctl daemon-reload && systemctl restart holdfast")
	d.is("WatchdogUSec", "40s")
	for _, how := range []struct{ signal, result string }{{"KILL", "status=9/KILL"}, {"STOP", "Watchdog timeout"}} {
		before := d.property("MainPID")
		s.mustSend()
		d.sh("kill -" + how.signal + " " + before)
		d.until("test \"$(systemctl show --value -p MainPID holdfast)\" != " + before + " && systemctl is-active holdfast")
		d.says("journalctl -u holdfast", how.result)
		s.check()
	}
	d.sh("rm -r /run/systemd/system/holdfast.service.d && systemctl daemon-reload && systemctl restart holdfast")
	// One that is well is left alone for most of its patience: it was asked, and
	// answered, more than once.
	before := d.property("MainPID")
	since := d.property("WatchdogTimestampMonotonic")
	for range 3 {
		d.until("test \"$(systemctl show --value -p WatchdogTimestampMonotonic holdfast)\" != " + since)
		since = d.property("WatchdogTimestampMonotonic")
	}
	d.is("MainPID", before)
}

// stops stops it while somebody waits for news, and starts it again: started is only
// what answers.
func (d *debian) stops(s *site) {
	d.t.Helper()
	since := s.admin.ask("GET", "/_matrix/client/v3/sync?timeout=0", nil, 200)["next_batch"].(string)
	waits := make(chan error, 1)
	go func() {
		status, _, err := s.admin.try("GET", "/_matrix/client/v3/sync?timeout=120000&since="+url.QueryEscape(since), nil)
		if err == nil && status != 200 {
			err = fmt.Errorf("status %d", status)
		}
		waits <- err
	}()
	d.until("ss -Hnt state established sport = :443 | grep -q .")
	d.sh("systemctl stop holdfast")
	if err := <-waits; err != nil {
		d.t.Errorf("who waited at the stop got no answer: %v", err)
	}
	d.is("Result", "success")
	d.is("ActiveState", "inactive")
	d.says("journalctl -u holdfast -n 5", "stopped", "Deactivated successfully")
	d.refused("holdfast user list")
	d.refused("test -e /var/lib/holdfast/holdfast.sock")
	d.sh("systemctl start holdfast && holdfast user list")
	s.check()
}

// sandbox tries what the unit forbids, inside of it and outside.
func (d *debian) sandbox(t *testing.T) {
	d.sh("touch /tmp/of-others /var/lib/holdfast/x && rm /var/lib/holdfast/x && modprobe algif_hash")
	d.sh("mkdir -p /run/systemd/system/holdfast.service.d && printf '[Service]\\nExecStartPost=/bin/sh -c \"/payload/probe >/var/lib/holdfast/probe 2>&1; cat /proc/self/status >>/var/lib/holdfast/probe\"\\n' >/run/systemd/system/holdfast.service.d/probe.conf && systemctl daemon-reload && systemctl restart holdfast")
	inside := d.sh("cat /var/lib/holdfast/probe; rm /var/lib/holdfast/probe")
	outside := d.sh("/payload/probe")
	d.sh("rm -r /run/systemd/system/holdfast.service.d && systemctl daemon-reload && systemctl restart holdfast")
	tries := regexp.MustCompile(`(?m)^(yes|no) ([^:\n]*)`)
	allowed := []string{"write /var/lib/holdfast", "a TCP socket", "port 90"}
	seen := 0
	for _, m := range tries.FindAllStringSubmatch(inside, -1) {
		seen++
		if want := slices.Contains(allowed, m[2]); (m[1] == "yes") != want {
			t.Errorf("in the sandbox: %s", m[0])
		}
	}
	for _, m := range tries.FindAllStringSubmatch(outside, -1) {
		if m[1] == "no" {
			t.Errorf("the probe cannot tell: without the sandbox it says %s", m[0])
		}
	}
	if seen < 30 {
		t.Errorf("%d tries inside:\n%s", seen, inside)
	}
	// Capability 10 is that of low ports.
	for _, want := range []string{"CapEff:\t0000000000000400", "CapBnd:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(inside, want) {
			t.Errorf("in the sandbox there is no %q:\n%s", want, inside)
		}
	}
}

var claimCode = regexp.MustCompile(`\b[0-9A-Z]{4}-[0-9A-Z]{4}-[0-9A-Z]{4}\b`)
