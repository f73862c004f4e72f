package uki

import (
	"crypto/x509"
	"encoding/binary"
	"time"
	"unicode/utf16"
)

// GUID is one as firmware stores it.
type GUID [16]byte

// Source: UEFI Specification, "Signature Database" and "Variable Services".
var (
	// GlobalVariable is the vendor of PK and KEK.
	GlobalVariable = GUID{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	// SecurityDatabase is the vendor of db and dbx.
	SecurityDatabase = GUID{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}

	certX509  = GUID{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	certPKCS  = GUID{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}
	certGUID  = uint16(0x0ef1) // kind of certificate that has a GUID
	varStaySB = uint32(0x27)   // non-volatile, boot service, runtime, authenticated by time
)

// SignatureList is an EFI_SIGNATURE_LIST of certificates.
func SignatureList(owner GUID, certs ...*x509.Certificate) []byte {
	var out []byte
	le := binary.LittleEndian
	for _, c := range certs {
		out = append(out, certX509[:]...)
		out = le.AppendUint32(out, uint32(28+16+len(c.Raw)))
		out = le.AppendUint32(out, 0)
		out = le.AppendUint32(out, uint32(16+len(c.Raw)))
		out = append(out, owner[:]...)
		out = append(out, c.Raw...)
	}
	return out
}

// Variable makes the content of a .auth file: a list that firmware takes as the
// value of a variable of Secure Boot, since who may set it has signed it. when must
// be later than that of the value before.
func (s Signer) Variable(name string, vendor GUID, list []byte, when time.Time) ([]byte, error) {
	le := binary.LittleEndian
	when = when.UTC()
	stamp := le.AppendUint16(nil, uint16(when.Year()))
	stamp = append(stamp, byte(when.Month()), byte(when.Day()), byte(when.Hour()), byte(when.Minute()), byte(when.Second()), 0)
	stamp = append(stamp, make([]byte, 8)...) // no nanoseconds, no time zone

	var signed []byte
	for _, c := range utf16.Encode([]rune(name)) {
		signed = le.AppendUint16(signed, c)
	}
	signed = append(signed, vendor[:]...)
	signed = le.AppendUint32(signed, varStaySB)
	signed = append(signed, stamp...)
	signed = append(signed, list...)
	// Firmware wants the SignedData alone, not wrapped in a ContentInfo.
	sig, err := s.signedData(oidData, signed, false)
	if err != nil {
		return nil, err
	}
	out := stamp
	out = le.AppendUint32(out, uint32(24+len(sig)))
	out = le.AppendUint16(out, certRevision)
	out = le.AppendUint16(out, certGUID)
	out = append(out, certPKCS[:]...)
	out = append(out, sig...)
	return append(out, list...), nil
}
