// Package image_test boots the disk image in QEMU and uses it as an administrator
// and a client would: over HTTPS, by its serial line, and by pulling its plug. It
// boots a small Debian as well, for the package and the unit under a real systemd.
//
// Invariants: image and package are those that `make image` and `make deb` build; what
// may be written is a copy; the machine reaches nothing but the ports that the test
// forwards; a processor that cannot be lent is emulated, so no test measures time.
package image_test
