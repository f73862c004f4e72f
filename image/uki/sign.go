package uki

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrSignature means that a program is not signed, or not by the certificate.
var ErrSignature = errors.New("uki: the signature is missing or wrong")

// What stands before a signature in the certificate table.
// Source: PE Format, "The Attribute Certificate Table (Image Only)".
const (
	certHead     = 8
	certRevision = 0x0200
	certPKCS7    = 0x0002
)

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidPEImage       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
)

// Hash is the SHA-256 that firmware takes of a UEFI program: all of it but the
// checksum, the place of the signature and the signature. Errors: ErrFormat.
// Source: Windows Authenticode Portable Executable Signature Format.
func Hash(b []byte) ([sha256.Size]byte, error) {
	p, err := parse(b)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	end, err := p.signedEnd()
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	sum, dir := p.optional+offCheckSum, p.certificates()
	h := sha256.New()
	h.Write(b[:sum])
	h.Write(b[sum+4 : dir])
	h.Write(b[dir+8 : end])
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// signedEnd is where the certificate table begins, or the end.
func (p *image) signedEnd() (int, error) {
	at, size := u32(p.raw, p.certificates()), u32(p.raw, p.certificates()+4)
	if size == 0 {
		return len(p.raw), nil
	}
	if uint64(at)+uint64(size) != uint64(len(p.raw)) || int(at) < p.table+len(p.sections)*sectionSize {
		return 0, formatError("its signature is not at its end")
	}
	return int(at), nil
}

// Signer signs with an RSA key whose certificate the firmware knows.
type Signer struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
}

// Sign puts a signature at the end of a UEFI program; one that is there is replaced.
// It holds no time, so that the same program gets the same signature.
// Errors: ErrFormat.
func (s Signer) Sign(program []byte) ([]byte, error) {
	p, err := parse(program)
	if err != nil {
		return nil, err
	}
	end, err := p.signedEnd()
	if err != nil {
		return nil, err
	}
	out := make([]byte, align(end, 8))
	copy(out, program[:end])
	put32(out, p.optional+offCheckSum, 0)
	put32(out, p.certificates(), 0)
	put32(out, p.certificates()+4, 0)
	sum, err := Hash(out)
	if err != nil {
		return nil, err
	}
	content, err := indirectData(sum)
	if err != nil {
		return nil, err
	}
	signed, err := s.signedData(oidIndirectData, content, true)
	if err != nil {
		return nil, err
	}
	info, err := asn1.Marshal(contentInfo{oidSignedData, explicit(0, signed)})
	if err != nil {
		return nil, err
	}
	entry := make([]byte, align(certHead+len(info), 8))
	put32(entry, 0, uint32(len(entry)))
	binary.LittleEndian.PutUint16(entry[4:], certRevision)
	binary.LittleEndian.PutUint16(entry[6:], certPKCS7)
	copy(entry[certHead:], info)
	put32(out, p.certificates(), uint32(len(out)))
	put32(out, p.certificates()+4, uint32(len(entry)))
	return append(out, entry...), nil
}

// Unsigned takes the signature off. Errors: ErrFormat.
func Unsigned(program []byte) ([]byte, error) {
	p, err := parse(program)
	if err != nil {
		return nil, err
	}
	end, err := p.signedEnd()
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), program[:end]...)
	put32(out, p.certificates(), 0)
	put32(out, p.certificates()+4, 0)
	return out, nil
}

// Verify checks a program's signature. Errors: ErrFormat, ErrSignature.
func Verify(program []byte, cert *x509.Certificate) error {
	p, err := parse(program)
	if err != nil {
		return err
	}
	at, err := p.signedEnd()
	if err != nil {
		return err
	}
	if len(program)-at < certHead {
		return fmt.Errorf("%w: there is none", ErrSignature)
	}
	n := u32(program, at)
	if n < certHead || uint64(at)+uint64(n) > uint64(len(program)) || u16(program, at+6) != certPKCS7 {
		return fmt.Errorf("%w: it is of another kind", ErrSignature)
	}
	sum, err := Hash(program)
	if err != nil {
		return err
	}
	want, err := indirectData(sum)
	if err != nil {
		return err
	}
	var info contentInfo
	if _, err := asn1.Unmarshal(program[at+certHead:at+int(n)], &info); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	var sd signedData
	if _, err := asn1.Unmarshal(info.Content.Bytes, &sd); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if string(sd.Content.Content.Bytes) != string(want) || len(sd.Signers) != 1 {
		return fmt.Errorf("%w: it belongs to another program", ErrSignature)
	}
	attrs, err := attributes(oidIndirectData, want)
	if err != nil {
		return err
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("%w: the certificate has no RSA key", ErrSignature)
	}
	h := sha256.Sum256(attrs)
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, h[:], sd.Signers[0].Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}

// --- PKCS #7, as far as firmware wants it. Source: RFC 2315.

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"optional"`
}

type signedData struct {
	Version      int
	Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
	Content      contentInfo
	Certificates asn1.RawValue `asn1:"optional"`
	Signers      []signerInfo  `asn1:"set"`
}

type signerInfo struct {
	Version    int
	Issuer     issuerAndSerial
	Digest     pkix.AlgorithmIdentifier
	Attributes asn1.RawValue `asn1:"optional"`
	Algorithm  pkix.AlgorithmIdentifier
	Signature  []byte
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial asn1.RawValue
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

var (
	algSHA256 = pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
	algRSA    = pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue}
)

func explicit(tag int, inner []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: inner}
}

// indirectData is SpcIndirectDataContent: the hash, and that it is of a program.
func indirectData(sum [sha256.Size]byte) ([]byte, error) {
	// The program's "file name" is a fixed text, in UTF-16.
	var obsolete []byte
	for _, c := range "<<<Obsolete>>>" {
		obsolete = append(obsolete, 0, byte(c))
	}
	text, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: obsolete})
	if err != nil {
		return nil, err
	}
	link, err := asn1.Marshal(explicit(2, text))
	if err != nil {
		return nil, err
	}
	type peImage struct {
		Flags asn1.BitString
		File  asn1.RawValue
	}
	type typed struct {
		Type  asn1.ObjectIdentifier
		Value peImage
	}
	type digest struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	return asn1.Marshal(struct {
		Data   typed
		Digest digest
	}{typed{oidPEImage, peImage{Flags: asn1.BitString{}, File: explicit(0, link)}}, digest{algSHA256, sum[:]}})
}

// attributes are what is signed, as a SET: the content's type and its hash. The
// hash leaves out the content's own tag and length.
func attributes(kind asn1.ObjectIdentifier, content []byte) ([]byte, error) {
	var inner asn1.RawValue
	if _, err := asn1.Unmarshal(content, &inner); err != nil {
		return nil, err
	}
	h := sha256.Sum256(inner.Bytes)
	kindDER, err := asn1.Marshal(kind)
	if err != nil {
		return nil, err
	}
	sumDER, err := asn1.Marshal(h[:])
	if err != nil {
		return nil, err
	}
	// DER sorts a set by its bytes; the first attribute is the shorter one.
	return asn1.MarshalWithParams([]attribute{
		{oidContentType, []asn1.RawValue{{FullBytes: kindDER}}},
		{oidMessageDigest, []asn1.RawValue{{FullBytes: sumDER}}},
	}, "set")
}

// signedData signs content. With attributes it is signed through them, as programs
// are; without, directly and without holding it, as variables are.
func (s Signer) signedData(kind asn1.ObjectIdentifier, content []byte, withAttributes bool) ([]byte, error) {
	if _, ok := s.Key.Public().(*rsa.PublicKey); !ok {
		return nil, errors.New("uki: Secure Boot needs an RSA key")
	}
	serial, err := asn1.Marshal(s.Certificate.SerialNumber)
	if err != nil {
		return nil, err
	}
	si := signerInfo{
		Version:   1,
		Issuer:    issuerAndSerial{asn1.RawValue{FullBytes: s.Certificate.RawIssuer}, asn1.RawValue{FullBytes: serial}},
		Digest:    algSHA256,
		Algorithm: algRSA,
	}
	info := contentInfo{Type: kind}
	toSign := content
	if withAttributes {
		info.Content = explicit(0, content)
		if toSign, err = attributes(kind, content); err != nil {
			return nil, err
		}
		// In the message the set is tagged [0], for signing it is a plain SET.
		var set asn1.RawValue
		if _, err := asn1.Unmarshal(toSign, &set); err != nil {
			return nil, err
		}
		si.Attributes = explicit(0, set.Bytes)
	}
	sum := sha256.Sum256(toSign)
	if si.Signature, err = s.Key.Sign(nil, sum[:], crypto.SHA256); err != nil {
		return nil, err
	}
	return asn1.Marshal(signedData{
		Version: 1, Digests: []pkix.AlgorithmIdentifier{algSHA256}, Content: info,
		Certificates: explicit(0, s.Certificate.Raw), Signers: []signerInfo{si},
	})
}
