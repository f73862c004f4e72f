package boot

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

const (
	logLines = 2000 // kept in memory
	logLine  = 500  // bytes of a line that are kept
	logFile  = 4 << 20
)

// journal is the machine's log: the last lines in memory, and files on the data
// partition once that is open. It never waits for anything but the disk, and a
// disk that is full or broken costs only the file.
type journal struct {
	mu    sync.Mutex
	lines []string
	part  []byte
	f     *os.File
	size  int64
	path  string
}

// Write takes lines of the log.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	rest := p
	for len(rest) > 0 {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			j.part = append(j.part, rest[:min(len(rest), logLine)]...)
			break
		}
		j.part = append(j.part, rest[:i]...)
		j.keep(string(j.part[:min(len(j.part), logLine)]))
		j.part, rest = j.part[:0], rest[i+1:]
	}
	j.file(p)
	return len(p), nil
}

func (j *journal) keep(line string) {
	if len(j.lines) >= logLines {
		j.lines = append(j.lines[:0], j.lines[logLines/4:]...)
	}
	j.lines = append(j.lines, line)
}

func (j *journal) file(p []byte) {
	if j.f == nil {
		return
	}
	if j.size+int64(len(p)) > logFile {
		j.f.Close()
		os.Rename(j.path, j.path+".1")
		j.reopen()
		if j.f == nil {
			return
		}
	}
	n, _ := j.f.Write(p)
	j.size += int64(n)
}

func (j *journal) reopen() {
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	j.f, j.size = f, 0
	if err != nil {
		j.f = nil
		return
	}
	if info, err := f.Stat(); err == nil {
		j.size = info.Size()
	}
}

// open keeps the log in a folder from now on, with what was logged before.
func (j *journal) open(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.path = filepath.Join(dir, "holdfast.log")
	j.reopen()
	if j.f == nil {
		return fmt.Errorf("the log file %s cannot be made", j.path)
	}
	var b bytes.Buffer
	for _, l := range j.lines {
		b.WriteString(l + "\n")
	}
	j.file(b.Bytes())
	return nil
}

// close ends the file, so that the partition can be unmounted.
func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f != nil {
		j.f.Sync()
		j.f.Close()
		j.f = nil
	}
}

// last are the last lines.
func (j *journal) last(n int) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.lines[max(0, len(j.lines)-n):]...)
}

// kernelLog are the last lines of the kernel's log, with the seconds since it began.
func kernelLog(n int) (lines []string) {
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return []string{err.Error()}
	}
	defer f.Close()
	buf := make([]byte, 8<<10)
	for range 1 << 20 {
		k, err := syscall.Read(int(f.Fd()), buf)
		if err == syscall.EPIPE || err == syscall.EINTR {
			continue // a record was overwritten while this one was read
		}
		if err != nil || k <= 0 {
			break
		}
		if line, ok := kernelLine(string(buf[:k])); ok {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}

// kernelLine reads a record: "level,number,microseconds,flags;text", then lines of
// its context.
func kernelLine(record string) (string, bool) {
	head, text, ok := strings.Cut(record, ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return "", false
	}
	us, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return "", false
	}
	text, _, _ = strings.Cut(text, "\n")
	return fmt.Sprintf("%d.%03d %s", us/1e6, us/1000%1000, text), true
}
