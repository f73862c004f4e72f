package appliance

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"holdfast/image/hardware"
)

// runHardware prints the devices of the machine. It works on any Linux.
func runHardware(c *cli) error {
	// Without an index nobody knows which module would fit, but what works is seen.
	index, indexErr := hardware.OpenIndex("/")
	r := hardware.Scan("/sys", index)
	r.Firmware = hardware.MissingFirmware()
	missing := r.Missing()
	switch {
	case c.json:
		if err := c.printJSON(r); err != nil {
			return err
		}
	default:
		printHardware(c, r)
		if indexErr != nil {
			fmt.Fprintf(c.out, "\nWhich driver would fit is not known here: %v\n", indexErr)
		}
	}
	if len(missing) > 0 {
		return errUnwell
	}
	return nil
}

func printHardware(c *cli, r hardware.Report) {
	if r.Machine != "" {
		fmt.Fprintf(c.out, "Machine: %s\n", r.Machine)
	}
	fmt.Fprintf(c.out, "Kernel:  %s\n\n", r.Kernel)
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tBUS\tADDRESS\tDEVICE\tID\tDRIVER")
	for _, d := range r.Devices {
		mark, driver := "ok", d.Driver
		if driver == "" {
			mark, driver = "-", "none"
			if d.Needed {
				mark = "WRONG"
			}
			if len(d.Modules) > 0 {
				driver += " (" + strings.Join(d.Modules, ", ") + " would fit)"
			}
		}
		name := d.Class
		if d.Name != "" {
			name += ", " + d.Name
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", mark, d.Bus, d.Address, name, d.ID, driver)
	}
	w.Flush()
	if len(r.Devices) == 0 {
		fmt.Fprintln(c.out, "No devices were found on the PCI, USB, virtio and Hyper-V buses.")
	}
	for _, f := range r.Firmware {
		fmt.Fprintf(c.out, "A driver asked for the firmware file %s, which is not there.\n", f)
	}
	for _, d := range r.Missing() {
		why := "no driver for it is here; use another device"
		if len(d.Modules) > 0 {
			why = "its driver was not loaded, or refused it; the kernel's log says more"
		}
		fmt.Fprintf(c.out, "%s %s (%s): %s.\n", d.Bus, d.Address, d.Class, why)
	}
}
