package hardware

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Device is one device of the machine.
type Device struct {
	Bus     string `json:"bus"`            // "pci", "usb", "virtio", "vmbus"
	Address string `json:"address"`        // its name on the bus
	ID      string `json:"id"`             // vendor and device
	Class   string `json:"class"`          // in words
	Name    string `json:"name,omitempty"` // as it calls itself
	// Needed says that Holdfast has a use for this kind of device: disks, networks,
	// and what they are behind.
	Needed bool `json:"needed"`
	// Driver is what works it, "" if nothing does.
	Driver string `json:"driver,omitempty"`
	// Modules fit it. That none of them works it although there are some means that
	// the driver was not loaded, or has refused it.
	Modules []string `json:"modules,omitempty"`
}

// Missing reports whether a device that is of use has no driver.
func (d Device) Missing() bool { return d.Needed && d.Driver == "" }

// Report is what the machine has.
type Report struct {
	Machine string   `json:"machine,omitempty"` // maker and model
	Kernel  string   `json:"kernel"`
	Devices []Device `json:"devices"`
	// Firmware are the files that drivers asked for and did not get.
	Firmware []string `json:"missing_firmware,omitempty"`
}

// Missing are the devices of use that have no driver.
func (r Report) Missing() (list []Device) {
	for _, d := range r.Devices {
		if d.Missing() {
			list = append(list, d)
		}
	}
	return list
}

// Scan reports the devices below sys, which is "/sys". index may be nil; then the
// report does not say what would fit. Only what can be read is reported.
func Scan(sys string, index *Index) Report {
	r := Report{Machine: machine(sys)}
	r.Kernel = read(filepath.Join(sys, "../proc/sys/kernel/osrelease"))
	for _, bus := range []string{"pci", "usb", "virtio", "vmbus"} {
		paths, err := filepath.Glob(filepath.Join(sys, "bus", bus, "devices", "*"))
		if err != nil {
			continue
		}
		slices.Sort(paths)
		for _, p := range paths {
			d := Device{Bus: bus, Address: filepath.Base(p)}
			switch bus {
			case "pci":
				pciDevice(p, &d)
			case "usb":
				if !usbInterface(p, &d) {
					continue
				}
			case "virtio":
				virtioDevice(p, &d)
			case "vmbus":
				d.ID = strings.Trim(read(filepath.Join(p, "class_id")), "{}")
				d.Class, d.Needed = vmbusClass(d.ID)
			}
			if link, err := os.Readlink(filepath.Join(p, "driver")); err == nil {
				d.Driver = filepath.Base(link)
			}
			if index != nil {
				if alias := read(filepath.Join(p, "modalias")); alias != "" {
					d.Modules = index.Match(alias)
				}
			}
			r.Devices = append(r.Devices, d)
		}
	}
	return r
}

// read is a small file's text, "" if it cannot be read.
func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) > 4096 {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, strings.TrimSpace(string(b)))
}

func hex(path string) uint32 {
	n, _ := strconv.ParseUint(strings.TrimPrefix(read(path), "0x"), 16, 32)
	return uint32(n)
}

func machine(sys string) string {
	var words []string
	for _, f := range []string{"sys_vendor", "product_name"} {
		if s := read(filepath.Join(sys, "class/dmi/id", f)); s != "" {
			words = append(words, s)
		}
	}
	if len(words) == 0 {
		// The device tree's strings end with a zero.
		return read(filepath.Join(sys, "firmware/devicetree/base/model"))
	}
	return strings.Join(words, " ")
}

func pciDevice(p string, d *Device) {
	d.ID = fmt.Sprintf("%04x:%04x", hex(filepath.Join(p, "vendor")), hex(filepath.Join(p, "device")))
	d.Name = vendors[hex(filepath.Join(p, "vendor"))]
	d.Class, d.Needed = pciClass(hex(filepath.Join(p, "class")))
}

// vendors are the makers of what servers and small computers are made of.
var vendors = map[uint32]string{
	0x1000: "Broadcom (LSI)", 0x1002: "AMD", 0x1022: "AMD", 0x102b: "Matrox", 0x1028: "Dell", 0x1033: "Renesas",
	0x103c: "HP", 0x106b: "Apple", 0x10de: "Nvidia", 0x10ec: "Realtek", 0x1106: "VIA", 0x1166: "Broadcom",
	0x1179: "Toshiba", 0x1217: "O2 Micro", 0x1234: "QEMU", 0x1344: "Micron", 0x1414: "Microsoft", 0x144d: "Samsung",
	0x14c3: "MediaTek", 0x14e4: "Broadcom", 0x14f1: "Conexant", 0x15ad: "VMware", 0x15b3: "Mellanox", 0x15b7: "SanDisk",
	0x15d9: "Supermicro", 0x1657: "Brocade", 0x168c: "Qualcomm Atheros", 0x177d: "Cavium", 0x17aa: "Lenovo", 0x17cb: "Qualcomm",
	0x1912: "Renesas", 0x1924: "Solarflare", 0x1969: "Atheros", 0x197b: "JMicron", 0x1987: "Phison", 0x1a03: "ASPEED",
	0x1af4: "virtio", 0x1b21: "ASMedia", 0x1b36: "QEMU", 0x1b4b: "Marvell", 0x1c5c: "SK hynix", 0x1d0f: "Amazon",
	0x1d6a: "Aquantia", 0x1fc9: "Tehuti", 0x2646: "Kingston", 0x8086: "Intel", 0x9005: "Adaptec", 0x126f: "Silicon Motion", 0x1590: "HPE",
}

// pciClass is a class code in words. Source: PCI Code and ID Assignment Specification.
func pciClass(code uint32) (name string, needed bool) {
	class, sub, prog := byte(code>>16), byte(code>>8), byte(code)
	if class == 0x01 && sub == 0x08 && prog == 0x02 {
		return "NVMe disk", true
	}
	if class == 0x0c && sub == 0x03 {
		switch prog {
		case 0x00, 0x10, 0x20, 0x30, 0x40:
			return map[byte]string{0x00: "USB controller (UHCI)", 0x10: "USB controller (OHCI)", 0x20: "USB controller (EHCI)",
				0x30: "USB controller (xHCI)", 0x40: "USB4 controller"}[prog], prog != 0x40
		case 0xfe:
			return "USB device port", false
		}
	}
	if s, ok := pciClasses[uint16(class)<<8|uint16(sub)]; ok {
		return s.name, s.needed
	}
	if name = pciBase[class]; name == "" {
		name = "unknown device"
	}
	return fmt.Sprintf("%s (class %02x%02x)", name, class, sub), class == 0x01 || class == 0x02 && sub != 0x80
}

var pciBase = map[byte]string{
	0x00: "old device", 0x01: "disk controller", 0x02: "network card", 0x03: "graphics", 0x04: "multimedia device",
	0x05: "memory", 0x06: "bridge", 0x07: "serial or modem port", 0x08: "system device", 0x09: "input device",
	0x0a: "docking station", 0x0b: "processor", 0x0c: "serial bus", 0x0d: "radio device", 0x0e: "intelligent controller",
	0x0f: "satellite receiver", 0x10: "encryption device", 0x11: "measuring device", 0x12: "accelerator", 0x13: "instrumentation",
	0x40: "coprocessor", 0xff: "device of a virtual machine",
}

var pciClasses = map[uint16]struct {
	name   string
	needed bool
}{
	0x0100: {"SCSI controller", true}, 0x0101: {"IDE controller", true}, 0x0104: {"RAID controller", true},
	0x0105: {"ATA controller", true}, 0x0106: {"SATA controller", true}, 0x0107: {"SAS controller", true},
	0x0108: {"disk controller", true}, 0x0109: {"UFS controller", true},
	0x0200: {"Ethernet card", true}, 0x0207: {"InfiniBand card", true}, 0x0280: {"wireless network card", false},
	0x0300: {"graphics card", false}, 0x0302: {"3D accelerator", false}, 0x0380: {"graphics card", false},
	0x0401: {"sound card", false}, 0x0403: {"sound card", false},
	0x0500: {"memory", false}, 0x0580: {"memory controller", false},
	0x0600: {"processor's bridge", false}, 0x0601: {"ISA bridge", false}, 0x0604: {"PCI bridge", false}, 0x0680: {"system bridge", false},
	0x0700: {"serial port", false}, 0x0703: {"modem", false}, 0x0780: {"communication controller", false},
	0x0800: {"interrupt controller", false}, 0x0801: {"DMA controller", false}, 0x0803: {"clock", false},
	0x0805: {"SD card reader", true}, 0x0806: {"IOMMU", false}, 0x0880: {"system device", false},
	0x0c00: {"FireWire controller", false}, 0x0c04: {"Fibre Channel card", true}, 0x0c05: {"SMBus controller", false},
	0x0c80: {"serial bus controller", false}, 0x0d11: {"Bluetooth radio", false}, 0x1080: {"encryption device", false},
	0x1101: {"performance counter", false}, 0x1180: {"signal processing controller", false},
}

// usbInterface fills in one interface of a USB device; what is not one has none.
func usbInterface(p string, d *Device) bool {
	if !strings.Contains(d.Address, ":") {
		return false
	}
	parent := filepath.Join(filepath.Dir(p), strings.SplitN(d.Address, ":", 2)[0])
	vendor, product := read(filepath.Join(parent, "idVendor")), read(filepath.Join(parent, "idProduct"))
	d.ID = vendor + ":" + product
	d.Name = strings.TrimSpace(read(filepath.Join(parent, "manufacturer")) + " " + read(filepath.Join(parent, "product")))
	class, sub := hex(filepath.Join(p, "bInterfaceClass")), hex(filepath.Join(p, "bInterfaceSubClass"))
	d.Class, d.Needed = usbClass(byte(class), byte(sub), hex(filepath.Join(p, "bInterfaceProtocol")))
	return true
}

// usbClass is a class of USB interfaces in words. Source: USB-IF, Defined Class Codes.
func usbClass(class, sub byte, protocol uint32) (string, bool) {
	switch class {
	case 0x01:
		return "sound device", false
	case 0x02:
		if sub == 0x06 || sub == 0x0d || sub == 0x0e {
			return "network adapter", true
		}
		return "communication device", false
	case 0x03:
		if sub == 1 && protocol == 1 {
			return "keyboard", true
		}
		return "input device", false
	case 0x06:
		return "camera", false
	case 0x07:
		return "printer", false
	case 0x08:
		return "disk or memory stick", true
	case 0x09:
		return "USB hub", true
	case 0x0a:
		return "data interface", false
	case 0x0b:
		return "card reader", false
	case 0x0e:
		return "video device", false
	case 0xe0:
		if sub == 1 && protocol == 1 {
			return "Bluetooth radio", false
		}
		return "wireless device", false
	case 0xef:
		return "mixed device", false
	case 0xfe:
		return "special device", false
	case 0xff:
		return "device of its maker's own kind", false
	}
	return fmt.Sprintf("unknown device (class %02x)", class), false
}

// virtioDevice fills in a device of a virtual machine. Source: OASIS virtio 1.2, part 5.
func virtioDevice(p string, d *Device) {
	n := hex(filepath.Join(p, "device"))
	d.ID = strconv.Itoa(int(n))
	kinds := map[uint32]struct {
		name   string
		needed bool
	}{1: {"network card", true}, 2: {"disk", true}, 3: {"console", false}, 4: {"random numbers", false}, 5: {"memory balloon", false},
		8: {"SCSI controller", true}, 9: {"shared folder", false}, 16: {"graphics", false}, 18: {"keyboard or mouse", true}, 19: {"socket to the host", false}, 26: {"shared folder", false}}
	if k, ok := kinds[n]; ok {
		d.Class, d.Needed = k.name, k.needed
		return
	}
	d.Class = "virtio device"
}

// vmbusClass names a device of Hyper-V. Source: Linux, include/linux/hyperv.h.
func vmbusClass(id string) (string, bool) {
	switch strings.ToLower(id) {
	case "f8615163-df3e-46c5-913f-f2d2f965ed0e":
		return "Hyper-V network card", true
	case "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f":
		return "Hyper-V SCSI controller", true
	case "32412632-86cb-44a2-9b5c-50d1417354f5":
		return "Hyper-V IDE controller", true
	case "f912ad6d-2b17-48ea-bd65-f927a61c7684":
		return "Hyper-V keyboard", true
	}
	return "Hyper-V device", false
}
