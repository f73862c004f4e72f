// Package disk finds the disk that the appliance was started from, makes its data
// partition as large as the disk, encrypts and opens it, and mounts it.
//
// The data partition is LUKS2: on a rescue stick cryptsetup opens it with the
// recovery passphrase. Its key slots, by the token beside each:
//
//	holdfast-clear     opened by a passphrase that stands in the token: not
//	                   protected. Only there from the first start until somebody
//	                   confirms a recovery passphrase, where there is no TPM chip.
//	holdfast-tpm2      opened by a passphrase that the TPM chip gives back.
//	holdfast-recovery  opened by the recovery passphrase.
//	(none)             made by hand with cryptsetup; tried as it was typed.
//
// The token holdfast-state says "formatting" until the file system is on the disk,
// and then "ready".
//
// Invariants: data is never overwritten: what is not empty, marked as fresh, or a
// first start that did not finish, is refused. The recovery passphrase is in force
// before the slot without protection goes, in one step; a stop anywhere leaves
// what was or what shall be, and the next start finishes the rest. Everything that
// can be wrong with a disk is an error of this package, of luks, gpt or tpm, that
// says what to do.
package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/tpm"
	"holdfast/image/disk/gpt"
	"holdfast/image/disk/luks"
	"holdfast/image/disk/mapper"
)

// Names on the disk.
const (
	ESPLabel  = "holdfast-esp"
	DataLabel = "holdfast-data"

	subsystem     = "holdfast"
	stateToken    = "holdfast-state"
	clearToken    = "holdfast-clear"
	tpmToken      = "holdfast-tpm2"
	recoveryToken = "holdfast-recovery"

	formatting, ready = "formatting", "ready"
)

// Marker stands at the beginning of a data partition that was never used. The
// image has it, so that what else is on the disk does not matter.
const Marker = "HOLDFAST DATA PARTITION, NOT USED YET\n"

// Template is where the initramfs has the empty file system, compressed with zstd.
const Template = "/share/ext4.img.zst"

// unlockTime is how long one guess of a passphrase takes on the machine that made
// the slot.
const unlockTime = time.Second

// Errors. Each is wrapped in more text.
var (
	ErrNoDisk          = errors.New("the disk that the appliance was started from does not appear")
	ErrTwoDisks        = errors.New("two disks hold this appliance: take out the one that shall not start")
	ErrReadOnly        = errors.New("the disk cannot be written: take away its write protection")
	ErrForeign         = errors.New("the data partition holds something that is not Holdfast's: write the image to the disk again if it may be lost")
	ErrNotPrepared     = errors.New("the data partition was not prepared yet")
	ErrTooSmall        = errors.New("the data partition is too small: use a larger disk")
	ErrPassphrase      = errors.New("the data is encrypted: the recovery passphrase is needed")
	ErrWrongPassphrase = errors.New("this passphrase does not open the data")
	ErrNoKey           = errors.New("only the TPM chip could open the data, and it does not; there is no recovery passphrase: undo what was changed in the firmware's setup, such as Secure Boot")
	ErrLocked          = errors.New("the data is not open")
	ErrFileSystem      = errors.New("the file system of the data is damaged: check it from a rescue stick with e2fsck")
	ErrNoRecovery      = errors.New("there is no new recovery passphrase to confirm: make one first")
	ErrNotTheSame      = errors.New("this is not the recovery passphrase that was made")
)

// Disk is the disk that the appliance runs on.
type Disk struct {
	// Template is the compressed file system that a new data partition begins with.
	Template string

	host            host
	log             *slog.Logger
	name            string // "sda"
	node            string // "/dev/sda"
	espNum, dataNum int
	unused          bool // as the image was written

	mu      sync.Mutex
	key     []byte // the volume key, while the data is open
	header  *luks.Header
	view    string // the decrypted device, ""
	target  string // where it is mounted, ""
	bytes   int64  // of the data partition
	pending string // the recovery passphrase that was not confirmed
	chipErr error  // why the TPM chip did not open the data
	fsWarn  string
	// stopGrowing stops the growing of the file system, nil where it was not begun.
	stopGrowing func()
	growWarn    atomic.Pointer[string]
	last        atomic.Pointer[Protection]
}

// ESP gives the device of the EFI system partition.
func (d *Disk) ESP() string { return d.host.partition(d.name, d.espNum) }

// Name gives the disk's own name, such as "sda".
func (d *Disk) Name() string { return d.name }

// section is a partition within its disk.
type section struct {
	d         device
	off, size int64
}

func (s section) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at > s.size-int64(len(p)) {
		return 0, io.ErrUnexpectedEOF
	}
	return s.d.ReadAt(p, s.off+at)
}

func (s section) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at > s.size-int64(len(p)) {
		return 0, io.ErrShortWrite
	}
	return s.d.WriteAt(p, s.off+at)
}

func (s section) Sync() error { return s.d.Sync() }

// opened is the disk while it is looked at or changed.
type opened struct {
	device
	table *gpt.Table
	part  gpt.Partition
	data  section
}

func (d *Disk) open() (*opened, error) {
	dev, err := d.host.open(d.node)
	if err != nil {
		return nil, err
	}
	t, err := gpt.Read(dev, dev.sectorSize(), dev.size())
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("%s: %w", d.node, err)
	}
	o := &opened{device: dev, table: t}
	if err := o.locate(); err != nil {
		dev.Close()
		return nil, fmt.Errorf("%s: %w", d.node, err)
	}
	return o, nil
}

func (o *opened) locate() (err error) {
	if o.part, err = o.table.Find(DataLabel); err != nil {
		return err
	}
	ss := int64(o.table.SectorSize)
	o.data = section{o.device, int64(o.part.First) * ss, int64(o.part.Last-o.part.First+1) * ss}
	return nil
}

// read reads the encryption header, finishing what a stop left. fresh says that
// there is none yet, or one of a first start that did not get to its end.
func (o *opened) read() (h *luks.Header, fresh bool, err error) {
	if o.data.size < luks.DataOffset+minData {
		return nil, false, fmt.Errorf("%w: it has %d MiB", ErrTooSmall, o.data.size>>20)
	}
	first := make([]byte, 512)
	if _, err := o.data.ReadAt(first, 0); err != nil {
		return nil, false, err
	}
	if string(first[:len(Marker)]) == Marker {
		return nil, true, nil
	}
	h, err = luks.Read(o.data, o.data.size)
	if errors.Is(err, luks.ErrNoHeader) {
		empty, err := o.empty()
		if err != nil {
			return nil, false, err
		}
		if !empty {
			return nil, false, ErrForeign
		}
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	switch state(h) {
	case formatting:
		return h, true, nil
	case ready:
		return h, false, nil
	}
	return nil, false, ErrForeign
}

func state(h *luks.Header) (s string) {
	for _, t := range h.Tokens(stateToken) {
		t.Field("state", &s)
	}
	return s
}

// minData is the least that a data partition may have behind its header.
const minData = 16 << 20

// empty reports whether nothing was ever written where a header would be.
func (o *opened) empty() (bool, error) {
	b := make([]byte, 1<<20)
	for at := int64(0); at < luks.DataOffset; at += int64(len(b)) {
		if _, err := o.data.ReadAt(b, at); err != nil {
			return false, err
		}
		for _, c := range b {
			if c != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// Prepare makes the partition table and the data partition ready for use: it grows
// to the disk's end, and at the first start gets its encryption header. What a stop
// left unfinished is finished. It can be called at every start.
// Errors: ErrReadOnly, ErrForeign, ErrTooSmall, of gpt and luks.
func (d *Disk) Prepare(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	o, err := d.open()
	if err != nil {
		return err
	}
	defer o.Close()
	if d.host.readOnly(d.name) || o.readOnly() {
		return fmt.Errorf("%w (%s)", ErrReadOnly, d.node)
	}
	h, fresh, err := o.read()
	if err != nil {
		return fmt.Errorf("%s: %w", d.node, err)
	}
	if err := d.grow(o, fresh && h == nil); err != nil {
		return err
	}
	if fresh {
		return d.format(o)
	}
	if h.Unwiped() {
		if err := h.FinishWipe(o.data); err != nil {
			return err
		}
		d.log.Info("what removed keys left on the disk is overwritten")
	}
	d.header = h
	return nil
}

// grow makes the data partition reach to the disk's end. A disk that was never
// used gets identities of its own, so that another one from the same image is
// told apart from it.
func (d *Disk) grow(o *opened, rename bool) error {
	was := o.table.Clone()
	changed := o.table.Grow(o.part.Number)
	if rename {
		o.table.Rename()
		changed = true
	}
	if changed || o.table.Unfinished() {
		if err := o.table.Write(o.device, was); err != nil {
			return fmt.Errorf("the partition table of %s: %w", d.node, err)
		}
	}
	if err := o.locate(); err != nil {
		return err
	}
	d.bytes = o.data.size
	// The kernel may also have the size from before a stop.
	if err := o.resize(o.part.Number, o.data.off, o.data.size); err != nil {
		return fmt.Errorf("the kernel does not take the new size of %s: %w", d.host.partition(d.name, o.part.Number), err)
	}
	if changed {
		d.log.Info("the data partition reaches to the end of the disk", "disk", d.name, "bytes", o.data.size)
	}
	return nil
}

// format makes the encryption header of a new data partition.
func (d *Disk) format(o *opened) error {
	// Until the header is whole this says that there is nothing to lose.
	b := make([]byte, 512)
	copy(b, Marker)
	if _, err := o.data.WriteAt(b, 0); err != nil {
		return err
	}
	if err := o.data.Sync(); err != nil {
		return err
	}
	slot, err := d.tpmSlot()
	if err != nil {
		d.log.Warn("the data begins without encryption", "why", err)
		pass := rand.Text()
		slot = luks.NewSlot{Pass: []byte(pass), KDF: luks.RandomKDF(),
			Token: luks.NewToken(clearToken, map[string]any{"passphrase": pass})}
	}
	ss := 4096
	if o.data.off%4096 != 0 {
		ss = 512
	}
	h, key, err := luks.Format(o.data, newUUID(), DataLabel, subsystem, ss, slot,
		luks.NewToken(stateToken, map[string]any{"state": formatting}))
	if err != nil {
		return err
	}
	clear(key)
	d.header = h
	return nil
}

func newUUID() string { return gpt.NewGUID().String() }

// tpmSlot makes a slot that the TPM chip opens. Errors: of tpm.
func (d *Disk) tpmSlot() (s luks.NewSlot, err error) {
	chip, err := d.host.tpm()
	if err != nil {
		return s, err
	}
	defer chip.Close()
	pass := make([]byte, 32)
	rand.Read(pass)
	sealed, err := chip.Seal(pass)
	if err != nil {
		return s, err
	}
	return luks.NewSlot{Pass: pass, KDF: luks.RandomKDF(),
		Token: luks.NewToken(tpmToken, map[string]any{"sealed": sealed, "pcrs": []int{7}, "bank": "sha256"})}, nil
}

// Unlock opens the data where no person is needed: it is not protected, or the TPM
// chip opens it. Errors: ErrPassphrase, ErrNoKey, ErrNotPrepared, of luks.
func (d *Disk) Unlock(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.view != "" {
		return nil
	}
	o, h, err := d.openHeader()
	if err != nil {
		return err
	}
	defer o.Close()
	for _, t := range h.Tokens(clearToken) {
		var pass string
		if !t.Field("passphrase", &pass) {
			continue
		}
		key, _, err := h.Open(o.data, []byte(pass), t.Keyslots...)
		if err == nil {
			return d.show(o, h, key)
		}
		d.log.Error("the key slot without protection does not open", "err", err)
	}
	d.chipErr = nil
	if tokens := h.Tokens(tpmToken); len(tokens) > 0 {
		key, err := d.askChip(o, h, tokens)
		if err == nil {
			return d.show(o, h, key)
		}
		d.chipErr = err
		d.log.Warn("the TPM chip does not open the data", "err", err)
	}
	if len(typable(h)) == 0 {
		return fmt.Errorf("%w (%w)", ErrNoKey, errors.Join(d.chipErr))
	}
	if d.chipErr != nil {
		return fmt.Errorf("%w (%w)", ErrPassphrase, d.chipErr)
	}
	return ErrPassphrase
}

func (d *Disk) openHeader() (*opened, *luks.Header, error) {
	o, err := d.open()
	if err != nil {
		return nil, nil, err
	}
	h, _, err := o.read()
	if err == nil && h == nil {
		err = ErrNotPrepared
	}
	if err != nil {
		o.Close()
		return nil, nil, fmt.Errorf("%s: %w", d.node, err)
	}
	d.header = h
	return o, h, nil
}

func (d *Disk) askChip(o *opened, h *luks.Header, tokens []luks.Token) ([]byte, error) {
	chip, err := d.host.tpm()
	if err != nil {
		return nil, err
	}
	defer chip.Close()
	for _, t := range tokens {
		var sealed tpm.Sealed
		if !t.Field("sealed", &sealed) {
			err = luks.ErrNewer
			continue
		}
		var pass []byte
		if pass, err = chip.Unseal(sealed); err != nil {
			continue
		}
		var key []byte
		if key, _, err = h.Open(o.data, pass, t.Keyslots...); err == nil {
			return key, nil
		}
	}
	return nil, err
}

// typable gives the slots that a person can open.
func typable(h *luks.Header) []string {
	slots := h.Slots()
	for _, t := range slices.Concat(h.Tokens(clearToken), h.Tokens(tpmToken)) {
		slots = slices.DeleteFunc(slots, func(s string) bool { return slices.Contains(t.Keyslots, s) })
	}
	return slots
}

// UnlockWith opens the data with a passphrase as somebody typed it. Errors:
// ErrWrongPassphrase, ErrNoKey, ErrNotPrepared, of luks.
func (d *Disk) UnlockWith(ctx context.Context, passphrase string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.view != "" {
		return nil
	}
	o, h, err := d.openHeader()
	if err != nil {
		return err
	}
	defer o.Close()
	slots := typable(h)
	if len(slots) == 0 {
		return ErrNoKey
	}
	var recovery []string
	for _, t := range h.Tokens(recoveryToken) {
		recovery = append(recovery, t.Keyslots...)
	}
	canonical, shape := parseRecovery(passphrase)
	var other error
	for _, s := range slots {
		pass := passphrase
		if slices.Contains(recovery, s) {
			if shape != nil {
				continue
			}
			pass = canonical
		}
		key, _, err := h.Open(o.data, []byte(pass), s)
		if err == nil {
			return d.show(o, h, key)
		}
		if !errors.Is(err, luks.ErrPass) {
			other = err
		}
	}
	switch {
	case other != nil:
		return other
	case shape != nil && len(recovery) == len(slots):
		return fmt.Errorf("%w: %w", ErrWrongPassphrase, shape)
	}
	return ErrWrongPassphrase
}

const viewName = "holdfast-data"

// show makes the decrypted view.
func (d *Disk) show(o *opened, h *luks.Header, key []byte) error {
	offset, ss := h.Data()
	size := o.data.size - offset
	view, err := d.host.view(viewName, "CRYPT-LUKS2-"+compact(h.UUID)+"-"+viewName, mapper.Crypt{
		Device: d.host.partition(d.name, o.part.Number), Key: key, Offset: offset, Size: size - size%int64(ss),
		SectorSize: ss, Discards: h.Discards()})
	if err != nil {
		clear(key)
		return err
	}
	d.view, d.key, d.bytes = view, key, o.data.size
	return nil
}

func compact(uuid string) string {
	b := []byte(uuid)
	return string(slices.DeleteFunc(b, func(c byte) bool { return c == '-' }))
}

// Protection is how well the data is protected.
type Protection struct {
	Encrypted  bool // nobody reads it without a key
	TPM        bool // the machine's chip opens it
	Passphrase bool // the recovery passphrase opens it
	Clear      bool // the key stands beside the data
	Device     string
	Bytes      int64
	Warning    string // what is not well, and what to do
}

// Protection tells how the data is protected. It does not wait for what is being
// done, such as a guess, but tells then how it was before.
func (d *Disk) Protection() Protection {
	if d.mu.TryLock() {
		p := d.protection()
		d.mu.Unlock()
		d.last.Store(&p)
		return p
	}
	if p := d.last.Load(); p != nil {
		return *p
	}
	return Protection{}
}

func (d *Disk) protection() Protection {
	p := Protection{Bytes: d.bytes, Device: d.host.partitionName(d.name, d.dataNum)}
	if d.header == nil {
		return p
	}
	p.Clear = len(d.header.Tokens(clearToken)) > 0
	p.TPM = len(d.header.Tokens(tpmToken)) > 0
	p.Passphrase = len(d.header.Tokens(recoveryToken)) > 0
	p.Encrypted = !p.Clear
	switch {
	case p.Clear:
		p.Warning = "The data is not protected: whoever takes the disk reads it. Make a recovery passphrase in the console, under Machine."
	case !p.Passphrase:
		p.Warning = "Only this machine's TPM chip opens the data. If the machine breaks or its firmware changes, the data is lost. Make a recovery passphrase in the console, under Machine."
	case d.chipErr != nil:
		p.Warning = "The TPM chip did not open the data at this start (" + d.chipErr.Error() + "), so the recovery passphrase was needed."
	case p.TPM && !d.host.secureBoot():
		p.Warning = "Secure Boot is off: whoever has the whole machine can start another system on it, to which the TPM chip gives the key. A disk taken out alone stays protected."
	}
	if w := d.growWarn.Load(); w != nil {
		p.Warning += " " + *w
	}
	p.Warning = strings.TrimSpace(p.Warning + " " + d.fsWarn)
	return p
}

// NewRecovery makes a recovery passphrase. It is in force once it was confirmed;
// until then the one before is.
func (d *Disk) NewRecovery() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.key == nil {
		return "", ErrLocked
	}
	d.pending = newRecovery()
	return d.pending, nil
}

// ConfirmRecovery takes what somebody typed from paper. If it is what NewRecovery
// made, it is in force when this returns; recovery passphrases from before are not
// any more, and no key stands beside the data. Where the machine has a TPM chip,
// that opens the data from now on. Errors: ErrNotTheSame, ErrNoRecovery, ErrLocked,
// of luks.
func (d *Disk) ConfirmRecovery(ctx context.Context, typed string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case d.key == nil:
		return ErrLocked
	case d.pending == "":
		return ErrNoRecovery
	}
	if err := sameRecovery(d.pending, typed); err != nil {
		return err
	}
	o, h, err := d.openHeader()
	if err != nil {
		return err
	}
	defer o.Close()
	c := luks.Change{Add: []luks.NewSlot{{Pass: []byte(d.pending), KDF: luks.Calibrate(d.host.guess),
		Token: luks.NewToken(recoveryToken, nil)}}}
	for _, t := range slices.Concat(h.Tokens(recoveryToken), h.Tokens(clearToken)) {
		c.Remove = append(c.Remove, t.Keyslots...)
	}
	if len(h.Tokens(tpmToken)) == 0 {
		if slot, err := d.tpmSlot(); err == nil {
			c.Add = append(c.Add, slot)
		} else {
			d.log.Info("the TPM chip will not open the data", "why", err)
		}
	}
	if err := d.change(o, h, c); err != nil {
		return err
	}
	d.pending = ""
	return nil
}

func (d *Disk) change(o *opened, h *luks.Header, c luks.Change) error {
	err := h.Change(o.data, d.key, c)
	if err != nil {
		// What is on the disk now is one of the two.
		if again, _, e := o.read(); e == nil && again != nil {
			d.header = again
		}
		return err
	}
	d.header = h
	return nil
}

// Reseal lets the TPM chip open the data at the next start as this one was
// measured, after the recovery passphrase was needed. There is nothing to do while
// the data is not protected, or where the chip opens it already. Errors: ErrLocked,
// of tpm and luks.
func (d *Disk) Reseal(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case d.key == nil:
		return ErrLocked
	}
	o, h, err := d.openHeader()
	if err != nil {
		return err
	}
	defer o.Close()
	old := h.Tokens(tpmToken)
	if len(h.Tokens(clearToken)) > 0 {
		return nil
	}
	if len(old) > 0 {
		if key, err := d.askChip(o, h, old); err == nil {
			clear(key)
			return nil
		}
	}
	slot, err := d.tpmSlot()
	if err != nil {
		return err
	}
	c := luks.Change{Add: []luks.NewSlot{slot}}
	for _, t := range old {
		c.Remove = append(c.Remove, t.Keyslots...)
	}
	if err := d.change(o, h, c); err != nil {
		return err
	}
	d.chipErr = nil
	d.log.Info("the TPM chip opens the data from the next start on")
	return nil
}
