package clock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// readMark reads the high-water mark: one line, a time as in RFC 3339.
func readMark(path string) (time.Time, error) {
	f, err := os.Open(path)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 100))
	if err != nil {
		return time.Time{}, err
	}
	return parseMark(string(text))
}

func parseMark(text string) (time.Time, error) {
	line, ok := strings.CutSuffix(text, "\n")
	t, err := time.Parse(time.RFC3339, line)
	if !ok || err != nil {
		return time.Time{}, fmt.Errorf("the mark %q is not a time", text)
	}
	if t.Year() < 2000 || t.Year() > 9000 {
		return time.Time{}, fmt.Errorf("the mark %q is not a time that can be", text)
	}
	return t, nil
}

// writeMark replaces the file whole, and has it on disk.
func writeMark(path string, t time.Time) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".mark-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(t.UTC().Format(time.RFC3339) + "\n")
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
