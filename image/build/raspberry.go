package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// raspberryConfig is read by the firmware of the Raspberry Pi. It starts U-Boot,
// which is the machine's UEFI from there on.
const raspberryConfig = `# Written when the image was built; updates do not change it.
arm_64bit=1
kernel=u-boot.bin
enable_uart=1
upstream_kernel=1
disable_overscan=1
`

// raspberryFirmware is what of the firmware a Raspberry Pi 3 (bootcode, start) and 4
// (start4) need.
var raspberryFirmware = []string{"bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"}

// writeRaspberry writes the disk for the Raspberry Pi: the same system partition,
// with the firmware, U-Boot and the descriptions of the boards beside it, and a
// master boot record that the firmware can read.
func writeRaspberry(o options, work string, pins []pin, files []file, pub *publication) error {
	i := slices.IndexFunc(pins, func(p pin) bool { return strings.HasPrefix(p.Name, "linux-image-") })
	boards, err := filepath.Glob(filepath.Join(work, pins[i].Name, "usr/lib/linux-image-*/broadcom/*-rpi-*.dtb"))
	if err != nil || len(boards) == 0 {
		return fmt.Errorf("the kernel's package has no descriptions of Raspberry Pi boards (%v)", err)
	}
	add := []string{filepath.Join(work, "u-boot-rpi/usr/lib/u-boot/rpi_arm64/u-boot.bin")}
	for _, name := range raspberryFirmware {
		add = append(add, filepath.Join(work, "raspi-firmware/usr/lib/raspi-firmware", name))
	}
	// Nothing checks signatures before U-Boot, and U-Boot keeps no keys: systemd-boot
	// would try to enrol them at each start.
	files = slices.DeleteFunc(slices.Clone(files), func(f file) bool { return strings.HasPrefix(f.name, "loader/") })
	files = append(files, file{"loader/loader.conf", []byte(loaderSettings)}, file{"config.txt", []byte(raspberryConfig)})
	for _, path := range append(add, boards...) {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files = append(files, file{filepath.Base(path), b})
	}
	d, err := makeDisk(o, diskSectors*sectorBytes, files, true)
	if err != nil {
		return err
	}
	return pub.write(fmt.Sprintf("holdfast-%s-rpi-arm64.raw.zst", o.version), func(f *os.File) error { return writeZstd(f, d) })
}
