package image_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHardware boots from every kind of disk and with every network card that QEMU
// has of those that servers have.
func TestHardware(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a boot each")
	}
	for _, c := range []struct{ bus, nic string }{
		{"nvme", "e1000e"}, {"ahci", "e1000"}, {"usb", "vmxnet3"}, {"pvscsi", "virtio-net-pci"}, {"megasas", "rtl8139"},
	} {
		t.Run(c.bus+" "+c.nic, func(t *testing.T) {
			m := start(t, options{disk: disk(t, 2), bus: c.bus, nic: c.nic})
			m.ready(0)
			claim(t, m).mustSend()
		})
	}
}

// TestNoNetwork starts where there is no card at all: the screen says so, and a
// restart with one finds everything as it was.
func TestNoNetwork(t *testing.T) {
	m := start(t, options{disk: disk(t, 2), nic: "none"})
	m.ready(0)
	m.powerButton()
	m.opt.nic = ""
	m.ready(m.again())
	claim(t, m).mustSend()
}

// TestCableMoved pulls the cable out of one port and puts it into the other.
func TestCableMoved(t *testing.T) {
	other := freePort(t)
	m := start(t, options{disk: disk(t, 2), extra: []string{
		"-netdev", fmt.Sprintf("user,id=n1,restrict=on,net=10.0.9.0/24,hostfwd=tcp:127.0.0.1:%d-:443", other), "-device", "virtio-net-pci,netdev=n1,id=nic1"}})
	m.qmp.must(t, "set_link", map[string]any{"name": "nic1", "up": false})
	m.ready(0)
	s := claim(t, m)
	s.mustSend()
	m.qmp.must(t, "set_link", map[string]any{"name": "nic0", "up": false})
	m.qmp.must(t, "set_link", map[string]any{"name": "nic1", "up": true})
	s.admin.base = fmt.Sprintf("https://127.0.0.1:%d", other)
	s.admin.http.Transport.(*http.Transport).CloseIdleConnections()
	s.eventually("the other port answers", func() bool { return s.send() == nil })
	s.check()
}

// eventually waits until something works, within the time of a boot.
func (s *site) eventually(what string, works func() bool) {
	s.t.Helper()
	for end := time.Now().Add(bootTime); time.Now().Before(end); time.Sleep(time.Second) {
		if works() {
			return
		}
	}
	s.t.Fatalf("it never came about that %s", what)
}

// TestDiskFull fills the data partition: what does not fit is refused with a clear
// error, what was acknowledged stays, and chat goes on once there is room.
func TestDiskFull(t *testing.T) {
	m := start(t, options{disk: disk(t, 0)}) // as shipped: hardly any room
	m.ready(0)
	s := claim(t, m)
	s.mustSend()
	var files []string
	block := bytes.Repeat([]byte{0xa5}, 4<<20)
	refused := 0
	for i := range 200 {
		block[0], block[1] = byte(i), byte(i>>8) // the same twice is stored once
		status, out, err := s.admin.try("POST", "/_matrix/media/v3/upload", bytes.NewReader(block))
		if err != nil {
			t.Fatalf("the appliance died: %v", err)
		}
		if status != 200 {
			if code, _ := out["errcode"].(string); !strings.HasPrefix(code, "M_") {
				t.Errorf("a full disk is told as %d %v", status, out)
			}
			if refused++; refused > 3 {
				break
			}
			continue
		}
		files = append(files, out["content_uri"].(string))
	}
	if refused == 0 {
		t.Fatal("the disk never was full")
	}
	s.check()
	m.powerButton()
	m.ready(m.again())
	s.check()
	for _, f := range files {
		status, raw, err := s.admin.raw("GET", "/_matrix/client/v1/media/download/"+strings.TrimPrefix(f, "mxc://"), nil)
		if err != nil || status != 200 || len(raw) != len(block) {
			t.Errorf("%s was acknowledged and is %d, %d bytes, %v", f, status, len(raw), err)
		}
	}
}

// TestARM boots the other architecture.
func TestARM(t *testing.T) {
	path := armDisk(t)
	m := start(t, options{arch: "arm64", disk: path})
	m.ready(0)
	claim(t, m).mustSend()
}
