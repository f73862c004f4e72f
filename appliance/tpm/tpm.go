// Package tpm keeps a small secret with the machine's TPM 2.0 chip, which gives it
// back only while PCR 7 is what it was: the measurement of whether Secure Boot is
// on and whose signatures it takes.
//
// Invariants: the chip alone can open what is sealed, and only the same chip; the
// secret crosses the wire to the chip encrypted, under a key that was compared with
// the one known from sealing; nothing is kept in the chip, and no password of the
// chip is used or set. Nothing is sealed to a PCR that no firmware measured into.
package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Errors of the chip.
var (
	ErrNone        = errors.New("this machine has no TPM 2.0 chip, or it is switched off in the firmware's setup")
	ErrNotMeasured = errors.New("the firmware does not measure how it starts (PCR 7 is empty), so the TPM chip would protect nothing: switch on measured boot in the firmware's setup")
	ErrChanged     = errors.New("the TPM chip does not give the key: Secure Boot or its keys were changed since it was sealed")
	ErrOther       = errors.New("the key was sealed by another TPM chip, or this one was cleared")
	ErrOwned       = errors.New("the TPM chip has an owner password of another system: clear the TPM in the firmware's setup")
)

// Device is where the kernel offers the chip, with its own management of what is
// loaded in it.
const Device = "/dev/tpmrm0"

const pcr = 7

// Sealed is a secret as the chip gave it back for keeping. It is not secret.
type Sealed struct {
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
	// Parent is the name of the chip's storage key, by which the chip is known again.
	Parent []byte `json:"parent"`
}

// The largest parts that are read back: a few hundred bytes are usual.
const maxPart = 2048

// TPM is an open chip.
type TPM struct {
	t     transport.TPM
	close io.Closer
}

// Open opens the machine's chip. Errors: ErrNone.
func Open() (*TPM, error) { return OpenAt(Device) }

// OpenAt is Open for another device. Errors: ErrNone.
func OpenAt(device string) (*TPM, error) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNone, err)
	}
	return New(f), nil
}

// New uses a chip behind a connection that takes commands and gives responses.
func New(c io.ReadWriteCloser) *TPM { return &TPM{transport.FromReadWriter(c), c} }

// Close lets the chip go.
func (t *TPM) Close() error { return t.close.Close() }

func selection() tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcr)}}}
}

// Measured reads PCR 7. Errors: ErrNotMeasured.
func (t *TPM) Measured() ([]byte, error) {
	r, err := tpm2.PCRRead{PCRSelectionIn: selection()}.Execute(t.t)
	if err != nil {
		return nil, explain(err)
	}
	if len(r.PCRValues.Digests) != 1 {
		return nil, fmt.Errorf("%w: the chip has no SHA-256 bank", ErrNotMeasured)
	}
	v := r.PCRValues.Digests[0].Buffer
	if len(bytes.Trim(v, "\x00")) == 0 || len(bytes.Trim(v, "\xff")) == 0 {
		return nil, ErrNotMeasured
	}
	return v, nil
}

// parent is the chip's storage key, made anew from its seed each time: the same
// key as long as nobody clears the chip.
type parent struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

func (t *TPM) parent() (p parent, err error) {
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t.t)
	if err != nil {
		if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
			return p, fmt.Errorf("%w (%w)", ErrOwned, err)
		}
		return p, explain(err)
	}
	pub, err := r.OutPublic.Contents()
	if err != nil {
		t.flush(r.ObjectHandle)
		return p, explain(err)
	}
	return parent{r.ObjectHandle, r.Name, *pub}, nil
}

func (t *TPM) flush(h tpm2.TPMHandle) { tpm2.FlushContext{FlushHandle: h}.Execute(t.t) }

// Seal gives a secret of at most 128 bytes to the chip. Errors: ErrNotMeasured,
// ErrOwned.
func (t *TPM) Seal(secret []byte) (s Sealed, err error) {
	if _, err := t.Measured(); err != nil {
		return s, err
	}
	p, err := t.parent()
	if err != nil {
		return s, err
	}
	defer t.flush(p.handle)
	// A trial gives the policy without anything having to hold.
	trial, closeTrial, err := tpm2.PolicySession(t.t, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		return s, explain(err)
	}
	defer closeTrial()
	if _, err := (tpm2.PolicyPCR{PolicySession: trial.Handle(), Pcrs: selection()}).Execute(t.t); err != nil {
		return s, explain(err)
	}
	policy, err := tpm2.PolicyGetDigest{PolicySession: trial.Handle()}.Execute(t.t)
	if err != nil {
		return s, explain(err)
	}
	r, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name,
			Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(128, tpm2.EncryptIn))},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type:    tpm2.TPMAlgKeyedHash,
			NameAlg: tpm2.TPMAlgSHA256,
			// Not by a password: by the policy alone, and so without a lockout.
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true},
			AuthPolicy:       policy.PolicyDigest,
		}),
	}.Execute(t.t)
	if err != nil {
		return s, explain(err)
	}
	return Sealed{Public: r.OutPublic.Bytes(), Private: r.OutPrivate.Buffer, Parent: p.name.Buffer}, nil
}

// Unseal gives the secret back. Errors: ErrChanged, ErrOther, ErrOwned.
func (t *TPM) Unseal(s Sealed) ([]byte, error) {
	if len(s.Public) == 0 || len(s.Public) > maxPart || len(s.Private) == 0 || len(s.Private) > maxPart {
		return nil, fmt.Errorf("%w (what was kept is damaged)", ErrOther)
	}
	p, err := t.parent()
	if err != nil {
		return nil, err
	}
	defer t.flush(p.handle)
	// Somebody between the machine and its chip would have another key.
	if !bytes.Equal(p.name.Buffer, s.Parent) {
		return nil, ErrOther
	}
	loaded, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name,
			Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(p.handle, p.public))},
		InPrivate: tpm2.TPM2BPrivate{Buffer: s.Private},
		InPublic:  tpm2.BytesAs2B[tpm2.TPMTPublic](s.Public),
	}.Execute(t.t)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrOther, err)
	}
	defer t.flush(loaded.ObjectHandle)
	session, closeSession, err := tpm2.PolicySession(t.t, tpm2.TPMAlgSHA256, 16,
		tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(128, tpm2.EncryptOut))
	if err != nil {
		return nil, explain(err)
	}
	defer closeSession()
	if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: selection()}).Execute(t.t); err != nil {
		return nil, explain(err)
	}
	r, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: session}}.Execute(t.t)
	switch {
	case errors.Is(err, tpm2.TPMRCPolicyFail):
		return nil, ErrChanged
	case err != nil:
		return nil, explain(err)
	}
	return r.OutData.Buffer, nil
}

func explain(err error) error { return fmt.Errorf("the TPM chip: %w", err) }
