package main

import (
	"bytes"
	"compress/zlib"
	"crypto/sha256"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// create writes a file whole: it has its name only once it is complete.
func create(name string, write func(f *os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// writeRaw writes the disk as it is, with holes where it is zeros.
func writeRaw(f *os.File, d *sparse) error {
	if err := f.Truncate(d.size); err != nil {
		return err
	}
	for _, i := range d.used() {
		c := d.chunks[i]
		if _, err := f.WriteAt(c[:min(int64(len(c)), d.size-i*chunkBytes)], i*chunkBytes); err != nil {
			return err
		}
	}
	return nil
}

// writeZstd writes the disk compressed, in the format that dd-like tools read.
func writeZstd(w io.Writer, d *sparse) error {
	e, err := encoder()
	if err != nil {
		return err
	}
	e.Reset(w)
	if _, err := io.Copy(e, d.reader()); err != nil {
		return err
	}
	return e.Close()
}

// writeQCOW2 writes QEMU's format, version 3, without compression: what fills the
// disk is compressed already.
// Source: QEMU, docs/interop/qcow2.txt.
func writeQCOW2(w io.Writer, d *sparse) error {
	const (
		perL2    = chunkBytes / 8
		perBlock = chunkBytes / 2 // reference counts of 16 bits
		copied   = uint64(1) << 63
	)
	be := binary.BigEndian
	used := d.used()
	guest := (d.size + chunkBytes - 1) / chunkBytes
	l2s := (guest + perL2 - 1) / perL2
	if l2s > perL2 {
		return fmt.Errorf("a disk of %d bytes is too large", d.size)
	}
	// Only the second tables are there that have something.
	place := map[int64]int64{}
	for _, i := range used {
		if _, ok := place[i/perL2]; !ok {
			place[i/perL2] = int64(len(place))
		}
	}
	tables := int64(len(place))
	// Header, table of reference counts, their blocks, L1, L2s, data.
	blocks := int64(1)
	total := func() int64 { return 3 + blocks + tables + int64(len(used)) }
	for blocks*perBlock < total() {
		blocks++
	}
	l1 := 2 + blocks

	head := make([]byte, chunkBytes)
	copy(head, "QFI\xfb")
	be.PutUint32(head[4:], 3)
	be.PutUint32(head[20:], 16) // clusters of 1<<16 bytes
	be.PutUint64(head[24:], uint64(d.size))
	be.PutUint32(head[36:], uint32(l2s))
	be.PutUint64(head[40:], uint64(l1)*chunkBytes)
	be.PutUint64(head[48:], 1*chunkBytes)
	be.PutUint32(head[56:], 1)
	be.PutUint32(head[96:], 4) // reference counts of 1<<4 bits
	be.PutUint32(head[100:], 104)

	counts := make([]byte, chunkBytes)
	for i := range blocks {
		be.PutUint64(counts[8*i:], uint64(2+i)*chunkBytes)
	}
	body := append(head, counts...)
	refs := make([]byte, blocks*chunkBytes)
	for i := range total() {
		be.PutUint16(refs[2*i:], 1)
	}
	body = append(body, refs...)
	first := make([]byte, chunkBytes)
	for i, at := range place {
		be.PutUint64(first[8*i:], uint64(l1+1+at)*chunkBytes|copied)
	}
	body = append(body, first...)
	second := make([]byte, tables*chunkBytes)
	for k, i := range used {
		be.PutUint64(second[8*(place[i/perL2]*perL2+i%perL2):], uint64(l1+1+tables+int64(k))*chunkBytes|copied)
	}
	body = append(body, second...)
	if _, err := w.Write(body); err != nil {
		return err
	}
	for _, i := range used {
		if _, err := w.Write(d.chunks[i]); err != nil {
			return err
		}
	}
	return nil
}

// writeVMDK writes VMware's format for transport, streamOptimized. name is the
// file's own.
// Source: VMware Virtual Disk Format 1.1.
func writeVMDK(w io.Writer, d *sparse, name string) error {
	const (
		grain    = chunkBytes / sectorBytes
		perTable = 512
		overhead = 128
		atEnd    = ^uint64(0)

		markTable, markDirectory, markFooter = 1, 2, 3
	)
	le := binary.LittleEndian
	out := &counted{w: w}
	sectors := uint64(d.size / sectorBytes)
	grains := (sectors + grain - 1) / grain

	header := func(directory uint64) []byte {
		h := make([]byte, sectorBytes)
		copy(h, "KDMV")
		le.PutUint32(h[4:], 3)
		le.PutUint32(h[8:], 1|1<<16|1<<17) // line ends are checked, compressed, with markers
		le.PutUint64(h[12:], sectors)
		le.PutUint64(h[20:], grain)
		le.PutUint64(h[28:], 1) // the description's place and size
		le.PutUint64(h[36:], 20)
		le.PutUint32(h[44:], perTable)
		le.PutUint64(h[56:], directory)
		le.PutUint64(h[64:], overhead)
		copy(h[73:], "\n \r\n")
		le.PutUint16(h[77:], 1) // deflate
		return h
	}
	// The identifier of the content is a hash of it, so that it is the same each time.
	sum := sha256.New()
	used := d.used()
	for _, i := range used {
		binary.Write(sum, le, i)
		sum.Write(d.chunks[i])
	}
	id := sum.Sum(nil)
	cylinders := min(sectors/(255*63), 65535)
	text := fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "%x"
ddb.virtualHWVersion = "13"
`, le.Uint32(id)&0x7fffffff, sectors, name, cylinders, id[:16])
	if len(text) > 20*sectorBytes {
		return fmt.Errorf("the description has %d bytes", len(text))
	}
	out.write(header(atEnd))
	out.write([]byte(text))
	out.write(make([]byte, overhead*sectorBytes-out.n))

	marker := func(count uint64, kind uint32) []byte {
		m := make([]byte, sectorBytes)
		le.PutUint64(m, count)
		le.PutUint32(m[12:], kind)
		return m
	}
	directory := make([]byte, 4*((grains+perTable-1)/perTable))
	table := make([]byte, 4*perTable)
	flush := func(t uint64) {
		if bytes.ContainsFunc(table, func(r rune) bool { return r != 0 }) {
			out.write(marker(uint64(len(table)/sectorBytes), markTable))
			le.PutUint32(directory[4*t:], uint32(out.n/sectorBytes))
			out.write(table)
			clear(table)
		}
	}
	last := uint64(0)
	for _, i := range used {
		if t := uint64(i) / perTable; t != last {
			flush(last)
			last = t
		}
		var packed bytes.Buffer
		z, err := zlib.NewWriterLevel(&packed, zlib.BestCompression)
		if err != nil {
			return err
		}
		z.Write(d.chunks[i])
		if err := z.Close(); err != nil {
			return err
		}
		le.PutUint32(table[4*(i%perTable):], uint32(out.n/sectorBytes))
		m := le.AppendUint64(nil, uint64(i)*grain)
		m = le.AppendUint32(m, uint32(packed.Len()))
		out.write(append(m, packed.Bytes()...))
		out.pad()
	}
	flush(last)
	out.write(marker((uint64(len(directory))+sectorBytes-1)/sectorBytes, markDirectory))
	at := uint64(out.n / sectorBytes)
	out.write(directory)
	out.pad()
	out.write(marker(1, markFooter))
	out.write(header(at))
	out.write(make([]byte, sectorBytes)) // end of stream
	return out.err
}

// counted counts what is written and keeps the first error.
type counted struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counted) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
	c.n += int64(len(b))
}

func (c *counted) pad() { c.write(make([]byte, -c.n&(sectorBytes-1))) }

// ovf describes a virtual machine around the disk, for import into VMware and
// others. Its firmware is UEFI.
// Source: DSP0243, Open Virtualization Format 1.1.
func ovf(version, disk string, diskSize, capacity int64) []byte {
	esc := func(s string) string {
		var b bytes.Buffer
		xml.EscapeText(&b, []byte(s)) // a buffer takes all
		return b.String()
	}
	item := func(fields string) string { return "      <Item>\n" + fields + "      </Item>\n" }
	f := func(name string, value any) string {
		return fmt.Sprintf("        <rasd:%s>%v</rasd:%s>\n", name, value, name)
	}
	items := item(f("AllocationUnits", "hertz * 10^6")+f("ElementName", "2 processors")+f("InstanceID", 1)+f("ResourceType", 3)+f("VirtualQuantity", 2)) +
		item(f("AllocationUnits", "byte * 2^20")+f("ElementName", "2048 MB of memory")+f("InstanceID", 2)+f("ResourceType", 4)+f("VirtualQuantity", 2048)) +
		item(f("Address", 0)+f("ElementName", "SCSI controller")+f("InstanceID", 3)+f("ResourceSubType", "VirtualSCSI")+f("ResourceType", 6)) +
		item(f("AddressOnParent", 0)+f("ElementName", "Disk")+f("HostResource", "ovf:/disk/disk1")+f("InstanceID", 4)+f("Parent", 3)+f("ResourceType", 17)) +
		item(f("AddressOnParent", 7)+f("AutomaticAllocation", true)+f("Connection", "network")+f("ElementName", "Network")+f("InstanceID", 5)+f("ResourceSubType", "VmxNet3")+f("ResourceType", 10))
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="%[1]s" ovf:id="file1" ovf:size="%[2]d"/>
  </References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:capacity="%[3]d" ovf:capacityAllocationUnits="byte" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name="network">
      <Description>The network on which the appliance is reached</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="holdfast">
    <Info>Holdfast</Info>
    <Name>Holdfast</Name>
    <OperatingSystemSection ovf:id="101" vmw:osType="other5xLinux64Guest">
      <Info>Linux</Info>
    </OperatingSystemSection>
    <ProductSection>
      <Info>Product</Info>
      <Product>Holdfast</Product>
      <FullVersion>%[4]s</FullVersion>
    </ProductSection>
    <VirtualHardwareSection>
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>holdfast</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
%[5]s      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
`, esc(disk), diskSize, capacity, esc(version), items)
}
