package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
)

// Cost is the work of argon2id.
type Cost struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// Floor is the least work for a stored password. Only tests go below it.
var Floor = Cost{MemoryKiB: 19 * 1024, Passes: 2, Threads: 1}

// Limits of what a stored hash may ask for, so that a damaged row cannot stop the appliance.
const (
	maxMemoryKiB = 1 << 20
	maxPasses    = 64
	keyBytes     = 32
	saltBytes    = 16
)

// aim is the time that checking a password should take.
const aim = 250 * time.Millisecond

// maxLine is how many checks of passwords may wait for each that is done: as long as
// people wait for a page. Whoever comes then is told to come again.
const maxLine = 40

// hasher computes argon2id, on all processors but one at a time: each takes its memory,
// and a burst of logins must not stop the server, which has messages to deliver.
type hasher struct {
	slots  chan struct{}
	checks atomic.Int64 // that run or wait
	once   sync.Once
	cost   Cost
	work   atomic.Uint64 // KiB filled, over all passes, since the start
}

func newHasher(fixed Cost) *hasher {
	h := &hasher{slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)), cost: fixed}
	if fixed != (Cost{}) {
		h.once.Do(func() {})
	}
	return h
}

// calibrated returns the cost for new hashes: passes are added to the floor until
// the work takes about aim on this machine.
func (h *hasher) calibrated() Cost {
	h.once.Do(func() {
		start := time.Now()
		argon2.IDKey([]byte("calibration"), make([]byte, saltBytes), Floor.Passes, Floor.MemoryKiB, Floor.Threads, keyBytes)
		took := max(time.Since(start), time.Millisecond)
		h.cost = Floor
		h.cost.Passes = min(8, max(Floor.Passes, uint32(int64(Floor.Passes)*int64(aim)/int64(took))))
	})
	return h.cost
}

func (h *hasher) key(ctx context.Context, password string, salt []byte, c Cost) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-h.slots }()
	h.work.Add(uint64(c.MemoryKiB) * uint64(c.Passes))
	return argon2.IDKey([]byte(password), salt, c.Passes, c.MemoryKiB, c.Threads, keyBytes), nil
}

// hash returns the PHC string to store for a password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	c := h.calibrated()
	key, err := h.key(ctx, password, salt, c)
	if err != nil {
		return "", err
	}
	return phc{c, salt, key}.String(), nil
}

// verify compares a password with a stored hash. An empty one costs the same
// time and never matches, so that unknown users cannot be told from known ones.
// Errors: *SlowDown, Busy.
func (h *hasher) verify(ctx context.Context, stored, password string) (bool, error) {
	defer h.checks.Add(-1)
	if h.checks.Add(1) > int64(cap(h.slots)*(1+maxLine)) {
		return false, &SlowDown{Wait: maxLine * aim / 2, Busy: true}
	}
	p := phc{Cost: h.calibrated(), salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	if stored != "" {
		var err error
		if p, err = parsePHC(stored); err != nil {
			return false, err
		}
	}
	key, err := h.key(ctx, password, p.salt, p.Cost)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, p.key) == 1 && stored != "", nil
}

// PasswordWork is how much memory, in KiB over all passes, was filled for passwords
// since the start. It grows alike for names that exist and names that do not.
func (a *Accounts) PasswordWork() uint64 { return a.hasher.work.Load() }

// phc is a parsed "$argon2id$v=19$m=19456,t=2,p=1$salt$key".
type phc struct {
	Cost
	salt, key []byte
}

func (p phc) String() string {
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.MemoryKiB, p.Passes, p.Threads, b.EncodeToString(p.salt), b.EncodeToString(p.key))
}

var errPHC = errors.New("account: not an argon2id hash of ours")

// parsePHC reads a stored hash. Errors: errPHC.
func parsePHC(s string) (phc, error) {
	f := strings.Split(s, "$")
	if len(s) > 512 || len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v="+strconv.Itoa(argon2.Version) {
		return phc{}, errPHC
	}
	var p phc
	params := strings.Split(f[3], ",")
	if len(params) != 3 {
		return phc{}, errPHC
	}
	for i, want := range []struct {
		name string
		max  uint64
	}{{"m", maxMemoryKiB}, {"t", maxPasses}, {"p", 255}} {
		name, val, _ := strings.Cut(params[i], "=")
		n, err := strconv.ParseUint(val, 10, 32)
		if err != nil || name != want.name || n == 0 || n > want.max || strconv.FormatUint(n, 10) != val {
			return phc{}, errPHC
		}
		switch i {
		case 0:
			p.MemoryKiB = uint32(n)
		case 1:
			p.Passes = uint32(n)
		case 2:
			p.Threads = uint8(n)
		}
	}
	var err error
	if p.salt, err = base64.RawStdEncoding.Strict().DecodeString(f[4]); err != nil || len(p.salt) < 8 {
		return phc{}, errPHC
	}
	if p.key, err = base64.RawStdEncoding.Strict().DecodeString(f[5]); err != nil || len(p.key) != keyBytes {
		return phc{}, errPHC
	}
	return p, nil
}
