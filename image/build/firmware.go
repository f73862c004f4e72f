package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/image/hardware"
)

// addFirmware puts the firmware that the chosen modules can ask for into the initial
// file system, from the packages below work. It gives lists of what was found and of
// what no package has.
func addFirmware(root rootFS, work string, pins []pin) (found, missing []string, err error) {
	var index []byte
	for name, e := range root {
		if path.Base(name) == hardware.IndexName {
			index = e.data
		}
	}
	names := map[string]bool{}
	for line := range bytes.Lines(index) {
		if f := strings.Fields(string(line)); len(f) == 3 && f[0] == "firmware" {
			names[f[2]] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		data, err := readFirmware(work, pins, name)
		if err != nil {
			return nil, nil, err
		}
		if data == nil {
			missing = append(missing, name)
			continue
		}
		root.file("lib/firmware/"+name, data, 0o444)
		found = append(found, name)
	}
	return found, missing, nil
}

// readFirmware reads one file, nil where no package has it. Links in packages are
// followed inside the package only.
func readFirmware(work string, pins []pin, name string) ([]byte, error) {
	for _, p := range pins {
		dir, err := os.OpenRoot(filepath.Join(work, p.Name))
		if err != nil {
			return nil, err
		}
		data, err := dir.ReadFile("lib/firmware/" + name)
		dir.Close()
		if err == nil {
			return data, nil
		}
		if !os.IsNotExist(err) {
			return nil, fmt.Errorf("firmware %s: %w", name, err)
		}
	}
	return nil, nil
}

// microcode makes the archive that the kernel reads before it does anything else:
// corrections of the processors themselves. It stands before the initial file
// system and is not compressed. nil where no package has any.
// Source: Linux, Documentation/x86/microcode.rst.
func microcode(work string) ([]byte, error) {
	root := rootFS{}
	for _, c := range []struct{ pattern, file string }{
		{"intel-microcode/lib/firmware/intel-ucode/*", "GenuineIntel.bin"},
		{"amd64-microcode/lib/firmware/amd-ucode/*.bin", "AuthenticAMD.bin"},
	} {
		names, err := filepath.Glob(filepath.Join(work, c.pattern))
		if err != nil {
			return nil, err
		}
		var all []byte
		for _, name := range names { // sorted by Glob
			b, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			all = append(all, b...)
		}
		if len(all) > 0 {
			root.file("kernel/x86/microcode/"+c.file, all, 0o444)
		}
	}
	if len(root) == 0 {
		return nil, nil
	}
	return root.cpio(), nil
}
