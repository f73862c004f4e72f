package appliance

import (
	"context"
	"time"

	"holdfast/web"
)

// selfTest is web.SelfTest.
type selfTest struct{ *Appliance }

func (a selfTest) SelfTest(ctx context.Context) ([]web.Check, error) {
	var out []web.Check
	if a.sfu != nil {
		start := time.Now()
		c := web.Check{Name: "call", Detail: "Two test clients exchanged media through the relay."}
		_, err := a.sfu.SelfTest(ctx)
		if c.OK = err == nil; err != nil {
			c.Detail = "The relay did not pass media: " + err.Error() + ". Check that its UDP port is not blocked on this machine."
		}
		c.MS = time.Since(start).Milliseconds()
		out = append(out, c)
	}
	return out, nil
}
