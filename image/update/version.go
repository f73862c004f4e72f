package update

import (
	"cmp"
	"errors"
	"regexp"
	"strconv"
	"strings"
)

// ErrVersion means that a version is not of the form that versions have.
var ErrVersion = errors.New("update: this is not a version")

// A version is a file name's part on FAT and is compared by the boot loader, so
// its letters are few: "1.4.0", "1.4.0-rc1", "0.0.412-gb7c69ad".
var versionForm = regexp.MustCompile(`^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,8}(-[0-9A-Za-z.-]{1,40})?$`)

// CheckVersion tells whether v can name a version. Errors: ErrVersion.
func CheckVersion(v string) error {
	if !versionForm.MatchString(v) {
		return ErrVersion
	}
	return nil
}

// Compare orders versions as numbers: -1 where a is older than b, 0 where neither
// is, 1 where a is newer. A pre-release ("-rc1") is older than its release, and the
// hash of a commit ("-gb7c69ad") says nothing about age.
func Compare(a, b string) int {
	na, pa := parts(a)
	nb, pb := parts(b)
	for i := range na {
		if c := cmp.Compare(na[i], nb[i]); c != 0 {
			return c
		}
	}
	switch {
	case pa == pb:
		return 0
	case pa == "":
		return 1
	case pb == "":
		return -1
	}
	return strings.Compare(pa, pb)
}

// parts are a version's three numbers and its pre-release.
func parts(v string) (n [3]int, pre string) {
	v, pre, _ = strings.Cut(v, "-")
	if isHash(pre) {
		pre = ""
	}
	for i, s := range strings.SplitN(v, ".", 3) {
		n[i], _ = strconv.Atoi(s)
	}
	return n, pre
}

func isHash(s string) bool {
	s, ok := strings.CutPrefix(s, "g")
	s = strings.TrimSuffix(s, "-dirty")
	return ok && len(s) >= 4 && strings.Trim(s, "0123456789abcdef") == ""
}
