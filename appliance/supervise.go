package appliance

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// tellSystemd tells a supervisor of systemd's kind how the service is
// ("READY=1", "STOPPING=1", "WATCHDOG=1"). Source: sd_notify(3).
func tellSystemd(state string) error {
	addr := os.Getenv("NOTIFY_SOCKET")
	if addr == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}

// patienceOfSystemd is after how long without a word the supervisor ends this
// process; 0: it does not watch. Source: sd_watchdog_enabled(3).
func patienceOfSystemd() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0 // it is another process that is watched
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// keepAlive tells the supervisor that all is well until ctx is done, each time that
// the appliance has answered itself. It is asked anew every quarter of the supervisor's
// patience, and each answer may take all of it: a machine that is slow, or a question
// that is lost, is no reason to start anew.
func (a *Appliance) keepAlive(ctx context.Context) {
	patience := patienceOfSystemd()
	if patience == 0 {
		return
	}
	tick := time.NewTicker(patience / 4)
	defer tick.Stop()
	ask := func() {
		asked, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err := a.Answers(asked)
		switch {
		case ctx.Err() != nil: // the stop has begun
		case err != nil:
			a.log.Warn("the appliance does not answer itself", "err", err)
		default:
			if err := tellSystemd("WATCHDOG=1"); err != nil {
				a.log.Warn("the service manager cannot be told that the appliance is well", "err", err)
			}
		}
	}
	for {
		go ask()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Answers asks the appliance as a client does: connection, TLS, routing. An answer
// that says no is an answer: neither a full disk nor a certificate that is still
// missing is a reason to start anew.
func (a *Appliance) Answers(ctx context.Context) error {
	c, err := a.selfTestClient()
	if err != nil {
		return err
	}
	defer c.http.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/_matrix/client/versions", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" { // an alert of TLS
		return nil
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return err
}
