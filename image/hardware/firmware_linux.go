package hardware

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// The kernel's own words for a file that it did not get.
var noFirmware = regexp.MustCompile(`Direct firmware load for (\S{1,200}) failed with error -2`)

// MissingFirmware are the files that drivers asked for and did not get since the
// kernel was started, as far as its log reaches back; nil where this user may not
// read that.
func MissingFirmware() (list []string) {
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	buf := make([]byte, 8<<10)
	for range 1 << 20 {
		n, err := syscall.Read(int(f.Fd()), buf)
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EINTR) {
			continue // a record was overwritten while this one was read
		}
		if err != nil || n <= 0 {
			break
		}
		if m := noFirmware.FindSubmatch(buf[:n]); m != nil {
			list = append(list, strings.Clone(string(m[1])))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
