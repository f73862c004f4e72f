// Package image_test boots the disk image in QEMU and uses it as an administrator
// and a client would: over HTTPS, by its serial line, and by pulling its plug.
//
// Invariants: the image is the one that `make image` builds; what may be written
// is a copy; the machine reaches nothing but the ports that the test forwards; a
// processor that cannot be lent is emulated, so no test measures time.
package image_test
