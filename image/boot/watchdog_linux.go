package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// watchdog resets the machine when it hangs: the chip counts down and is told to
// begin anew while all is well. It is a timer of the kernel where there is no chip.
type watchdog struct {
	log *slog.Logger
	f   *os.File // nil: there is none
	// check is asked whether all is well; nil while there is nothing to ask.
	check atomic.Pointer[func(ctx context.Context) error]
	// hung is called when the answer was no for too long.
	hung func(err error)
	// pause is between two pets, patience how long there may be no answer.
	pause, patience time.Duration
}

func newWatchdog(log *slog.Logger, hung func(err error)) *watchdog {
	return &watchdog{log: log, hung: hung, pause: petPause, patience: patience}
}

const (
	// resetTime is after how long the chip resets the machine.
	resetTime = 60 * time.Second
	petPause  = 10 * time.Second
	// patience is how long the appliance may give no answer.
	patience = 2 * time.Minute
	// answerTime is how long one answer may take.
	answerTime = 30 * time.Second
)

// open takes the watchdog. From now on only a call of run keeps the machine up.
func (w *watchdog) open() {
	f, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if err != nil {
		w.log.Warn("there is no watchdog: a machine that hangs stays so", "err", err)
		return
	}
	w.f = f
	for _, t := range []time.Duration{resetTime, resetTime / 2} { // some chips cannot count as far
		if unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(t/time.Second)) == nil {
			break
		}
	}
}

func (w *watchdog) pet() {
	if w.f != nil {
		w.f.Write([]byte{0})
	}
}

// run keeps the machine up until ctx is done, as long as all is well.
func (w *watchdog) run(ctx context.Context) {
	tick := time.NewTicker(w.pause)
	defer tick.Stop()
	well := time.Now()
	w.pet()
	answers := make(chan error, 1)
	asking := false
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-answers:
			asking = false
			if err == nil {
				well = time.Now()
			} else {
				w.log.Warn("the appliance does not answer itself", "err", err)
			}
		case now := <-tick.C:
			check := w.check.Load()
			if check == nil {
				well = now
			} else if !asking {
				asking = true
				go func() {
					ctx, cancel := context.WithTimeout(ctx, answerTime)
					defer cancel()
					answers <- (*check)(ctx)
				}()
			}
			if now.Sub(well) > w.patience {
				// From here on the chip is not told anything: if what follows hangs too,
				// the machine is reset all the same.
				w.hung(fmt.Errorf("it gave no answer for %v", w.patience))
				return
			}
			w.pet()
		}
	}
}

// watch has the appliance asked from now on; nil: no more.
func (w *watchdog) watch(check func(ctx context.Context) error) {
	if check == nil {
		w.check.Store(nil)
		return
	}
	w.check.Store(&check)
}
