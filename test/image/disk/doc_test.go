// Package disk_test drives the data partition in a machine of its own: Debian's
// kernel with its device mapper and ext4, a disk in a file and a TPM in software.
// What the kernel is not needed for is tested in image/disk.
//
// Invariants: what the machine wrote is judged by others: cryptsetup, and e2fsck on
// the file system decrypted here.
package disk_test
