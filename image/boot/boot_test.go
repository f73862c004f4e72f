package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestJournal(t *testing.T) {
	var j journal
	fmt.Fprintf(&j, "before the disk\nand a li")
	fmt.Fprintf(&j, "ne in two\n%s\n", strings.Repeat("x", 3*logLine))
	got := j.last(3)
	if len(got) != 3 || got[0] != "before the disk" || got[1] != "and a line in two" || len(got[2]) != logLine {
		t.Errorf("%q", got)
	}
	dir := filepath.Join(t.TempDir(), "log")
	if err := j.open(dir); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * logLines {
		fmt.Fprintf(&j, "line %d\n", i)
	}
	if got := j.last(2); len(got) != 2 || got[1] != fmt.Sprintf("line %d", 3*logLines-1) {
		t.Errorf("%q", got)
	}
	if n := len(j.last(1 << 20)); n > logLines {
		t.Errorf("%d lines are kept", n)
	}
	j.close()
	fmt.Fprintln(&j, "after the disk")
	b, err := os.ReadFile(filepath.Join(dir, "holdfast.log"))
	if err != nil || !strings.HasPrefix(string(b), "before the disk\nand a line in two\n") || strings.Contains(string(b), "after") {
		t.Errorf("%.100q, %v", b, err)
	}
}

func TestJournalTurnsOver(t *testing.T) {
	var j journal
	dir := t.TempDir()
	if err := j.open(dir); err != nil {
		t.Fatal(err)
	}
	defer j.close()
	line := []byte(strings.Repeat("y", 64<<10) + "\n")
	for range 3 * logFile / len(line) {
		j.Write(line)
	}
	for _, name := range []string{"holdfast.log", "holdfast.log.1"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Size() > logFile {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, _ := os.ReadDir(dir); len(list) != 2 {
		t.Errorf("%d files", len(list))
	}
}

func TestKernelLine(t *testing.T) {
	for record, want := range map[string]string{
		"6,1234,5000123,-;usb 1-1: new device\n SUBSYSTEM=usb\n": "5.000 usb 1-1: new device",
		"6,1234,12345678,-;": "12.345 ",
		"nothing":            "",
		"6,1;x":              "",
		"6,1,x,-;y":          "",
	} {
		if got, ok := kernelLine(record); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", record, got, ok)
		}
	}
}

func TestPowerButton(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, inputEvent)
		binary.NativeEndian.PutUint16(b[inputEvent-8:], kind)
		binary.NativeEndian.PutUint16(b[inputEvent-6:], code)
		binary.NativeEndian.PutUint32(b[inputEvent-4:], value)
		return b
	}
	if !isPower(event(evKey, keyPower, 1)) {
		t.Error("the button is not seen")
	}
	for _, e := range [][]byte{event(evKey, keyPower, 0), event(evKey, 30, 1), event(4, keyPower, 1)} {
		if isPower(e) {
			t.Errorf("%x is taken for the button", e)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Write(append(event(evKey, 30, 1), event(evKey, keyPower, 1)...))
	w.Close()
	n := 0
	readButton(r, func() { n++ })
	if n != 1 {
		t.Errorf("it was pressed %d times", n)
	}
}

func TestShort(t *testing.T) {
	for line, want := range map[string]string{
		`time=2026-11-28T13:06:32.479Z level=INFO msg="a thing" x=1`: `13:06:32 "a thing" x=1`,
		`time=2026-11-28T13:06:32Z level=WARN msg=x`:                 `13:06:32 WARN x`,
		`something else`: `something else`,
	} {
		if got := short(line); got != want {
			t.Errorf("%q: %q", line, got)
		}
	}
}

// An appliance that gives no answer, or none in the end, is taken for hung; one that
// answers is not, and the chip hears of it.
func TestWatchdog(t *testing.T) {
	hangs := func(ctx context.Context) error { <-t.Context().Done(); return nil }
	for name, check := range map[string]func(ctx context.Context) error{
		"no answer": hangs,
		"an error":  func(context.Context) error { return errors.New("connection refused") },
	} {
		hung := make(chan error, 1)
		w := newWatchdog(slog.New(slog.DiscardHandler), func(err error) { hung <- err })
		w.pause, w.patience = time.Millisecond, 20*time.Millisecond
		w.watch(check)
		w.run(t.Context())
		if err := <-hung; err == nil {
			t.Errorf("%s: no reason", name)
		}
	}
	r, chip, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := newWatchdog(slog.New(slog.DiscardHandler), func(err error) { t.Error("hung: ", err) })
	w.f, w.pause, w.patience = chip, time.Millisecond, time.Hour
	w.watch(func(context.Context) error { return nil })
	done := make(chan bool)
	go func() {
		w.run(ctx)
		close(done)
	}()
	if _, err := io.ReadFull(r, make([]byte, 20)); err != nil {
		t.Error(err)
	}
	cancel()
	<-done
}

func TestSentence(t *testing.T) {
	for in, want := range map[string]string{"": "", "no disk": "No disk.", "It is.": "It is."} {
		if got := sentence(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestInForce(t *testing.T) {
	for text, want := range map[string]string{
		"none [integrity] confidentiality\n": "integrity", "[none] integrity confidentiality\n": "none",
		"": "unknown", "none": "unknown", "[": "unknown", "[]": "unknown",
	} {
		if got := inForce(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
