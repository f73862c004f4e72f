package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"holdfast/sfu"
)

// Usage is what a process holds at this moment.
type Usage struct {
	Goroutines int   `json:"goroutines"`
	OpenFiles  int   `json:"open_files"` // sockets too
	HeapBytes  int64 `json:"heap_bytes"` // in use after a garbage collection
}

// MeasureUsage collects garbage and returns what this process holds.
func MeasureUsage() (Usage, error) {
	// Twice: what has a finalizer, or is in a pool, goes with the second.
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	return Usage{runtime.NumGoroutine(), len(files) - 1, int64(m.HeapAlloc)}, err // one is the folder itself
}

var usage = register("usage", func(context.Context, *sfu.SFU, none) (Usage, error) { return MeasureUsage() })

// Usage is what the relay's process holds, after a garbage collection there.
// Errors: sfu.ErrNotRunning.
func (r *Relay) Usage(ctx context.Context) (Usage, error) { return usage.call(ctx, r, none{}) }

// ProfileCPU as a profile's name is that of processor time.
const ProfileCPU = "cpu"

type profiling struct {
	Name  string
	Debug int
	For   time.Duration
}

var profile = register("profile", func(ctx context.Context, _ *sfu.SFU, in profiling) ([]byte, error) {
	return TakeProfile(ctx, in.Name, in.Debug, in.For)
})

// TakeProfile is one of this process, in the format of package runtime/pprof. name is
// ProfileCPU, which is taken for the time that is given, or one of that package's;
// debug is its own.
func TakeProfile(ctx context.Context, name string, debug int, within time.Duration) ([]byte, error) {
	var b bytes.Buffer
	if name == ProfileCPU {
		if err := pprof.StartCPUProfile(&b); err != nil {
			return nil, err
		}
		select {
		case <-time.After(within):
		case <-ctx.Done():
		}
		pprof.StopCPUProfile()
		return b.Bytes(), ctx.Err()
	}
	p := pprof.Lookup(name)
	if p == nil {
		return nil, fmt.Errorf("there is no profile %q", name)
	}
	err := p.WriteTo(&b, debug)
	return b.Bytes(), err
}

// Profile is TakeProfile of the relay's process. Errors: sfu.ErrNotRunning.
func (r *Relay) Profile(ctx context.Context, name string, debug int, within time.Duration) ([]byte, error) {
	return profile.call(ctx, r, profiling{name, debug, within})
}

// ownMetrics are those of the relay's process itself: the house has ones of the same
// names without the prefix.
func ownMetrics() prometheus.Gatherer {
	reg := prometheus.NewRegistry()
	prometheus.WrapRegistererWithPrefix("holdfast_relay_", reg).MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}
