package luks

import (
	"crypto/pbkdf2"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sys/unix"
)

// KDF says how a key slot makes a key from its passphrase.
type KDF struct {
	Type string `json:"type"` // "argon2id", "argon2i", "pbkdf2"
	// Argon2: passes, KiB of memory, threads.
	Time   int `json:"time,omitempty"`
	Memory int `json:"memory,omitempty"`
	CPUs   int `json:"cpus,omitempty"`
	// PBKDF2.
	Hash       string `json:"hash,omitempty"`
	Iterations int    `json:"iterations,omitempty"`
	Salt       []byte `json:"salt"`
}

// Bounds for what a header may ask of this machine.
const (
	minIterations = 1000
	maxIterations = 1 << 28
	maxTime       = 1 << 16
)

// RandomKDF is for passphrases of 256 random bits: they cannot be guessed, so
// nothing is gained by making a guess expensive.
func RandomKDF() KDF { return KDF{Type: "pbkdf2", Hash: "sha256", Iterations: minIterations} }

// oneAtATime keeps the memory of two derivations from being needed at once.
var oneAtATime sync.Mutex

func (k *KDF) derive(pass []byte, size int) ([]byte, error) {
	if len(k.Salt) == 0 || len(k.Salt) > 64 {
		return nil, fmt.Errorf("%w: a salt of %d bytes", ErrNewer, len(k.Salt))
	}
	switch k.Type {
	case "pbkdf2":
		h := newHash(k.Hash)
		if h == nil || k.Iterations < 1 || k.Iterations > maxIterations {
			return nil, fmt.Errorf("%w: pbkdf2 with %.20q, %d times", ErrNewer, k.Hash, k.Iterations)
		}
		return pbkdf2.Key(h, string(pass), k.Salt, k.Iterations, size)
	case "argon2id", "argon2i":
		if k.Time < 1 || k.Time > maxTime || k.Memory < 8 || k.CPUs < 1 || k.CPUs > 64 {
			return nil, fmt.Errorf("%w: %s with %d passes, %d KiB, %d threads", ErrNewer, k.Type, k.Time, k.Memory, k.CPUs)
		}
		if total := totalMemory(); int64(k.Memory) > total/4*3 {
			return nil, fmt.Errorf("%w: it needs %d MiB of %d", ErrMemory, k.Memory>>10, total>>10)
		}
		oneAtATime.Lock()
		defer oneAtATime.Unlock()
		f := argon2.IDKey
		if k.Type == "argon2i" {
			f = argon2.Key
		}
		out := f(pass, k.Salt, uint32(k.Time), uint32(k.Memory), uint8(k.CPUs), uint32(size))
		debug.FreeOSMemory()
		return out, nil
	}
	return nil, fmt.Errorf("%w: key derivation %.20q", ErrNewer, k.Type)
}

// totalMemory is this machine's, in KiB.
func totalMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 1 << 20
	}
	return int64(info.Totalram) * int64(info.Unit) >> 10
}

const (
	maxMemory = 512 << 10 // KiB
	minMemory = 32 << 10
	minTime   = 4 // fewer passes cryptsetup does not take for a new slot
)

// Calibrate gives Argon2id parameters with which a guess takes about as long as
// wanted on this machine and no more than an eighth of its memory.
func Calibrate(wanted time.Duration) KDF {
	k := KDF{Type: "argon2id", Time: minTime, CPUs: min(4, runtime.NumCPU()), Salt: make([]byte, 32)}
	limit := int(min(maxMemory, max(minMemory, totalMemory()/8)))
	k.Memory = minMemory
	start := time.Now()
	if _, err := k.derive([]byte("calibration"), KeySize); err != nil {
		k.Salt = nil
		return k
	}
	took := max(time.Since(start), time.Millisecond)
	// The cost is the product of both; memory hurts a guesser more than passes do.
	factor := float64(wanted) / float64(took)
	k.Memory = min(limit, max(minMemory, int(float64(minMemory)*factor)>>10<<10))
	k.Time = min(64, max(minTime, int(float64(minTime)*factor*minMemory/float64(k.Memory))))
	k.Salt = nil
	return k
}
