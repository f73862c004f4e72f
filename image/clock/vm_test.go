package clock

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/image/vmtest"
)

func TestMain(m *testing.M) {
	vmtest.Main()
	os.Exit(m.Run())
}

// The real kernel and a real battery clock, in a machine of their own.
func TestInImageKernel(t *testing.T) { vmtest.Run(t, "^TestRealClock$") }

func TestRealClock(t *testing.T) {
	if !vmtest.Inside() {
		t.Skip("it sets the machine's clock; TestInImageKernel runs it in one of its own")
	}
	k := system("/dev/rtc0")
	rtc, err := k.RTC()
	if err != nil {
		t.Fatal(err)
	}
	if !near(rtc, k.Now()) {
		t.Errorf("battery clock %s, kernel %s", rtc, k.Now())
	}
	for _, want := range []time.Time{
		time.Date(2027, 12, 31, 23, 59, 30, 0, time.UTC), time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC), time.Date(2045, 6, 1, 12, 0, 0, 0, time.FixedZone("", 7200)),
	} {
		if err := k.SetRTC(want); err != nil {
			t.Fatal(err)
		}
		if got, err := k.RTC(); err != nil || !near(got, want) {
			t.Errorf("battery clock %s, set to %s, %v", got, want, err)
		}
	}
	if err := k.Slew(100 * time.Millisecond); err != nil {
		t.Error(err)
	}

	// An empty battery: the clock starts at the mark. Then an administrator comes.
	if err := k.SetRTC(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	mark := floor.Add(30 * 24 * time.Hour)
	path := filepath.Join(t.TempDir(), "mark")
	if err := writeMark(path, mark); err != nil {
		t.Fatal(err)
	}
	o := Options{RTC: "/dev/rtc0", Mark: path, Floor: floor, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	c, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !near(time.Now().Round(0), mark) || alarms(c) != "rtc_behind" {
		t.Errorf("%s, alarms %q", time.Now(), alarms(c))
	}
	truth := floor.Add(90 * 24 * time.Hour)
	if err := c.Confirm(truth); err != nil {
		t.Fatal(err)
	}
	rtc, err = k.RTC()
	if err != nil || !near(rtc, truth) || !near(time.Now().Round(0), truth) || alarms(c) != "" {
		t.Errorf("battery clock %s, kernel %s, alarms %q, %v", rtc, time.Now(), alarms(c), err)
	}
	c.Stop()
	c, err = Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	if s := c.State(); !near(s.Now, truth) || s.Source != FromRTC || len(s.Alarms) != 0 {
		t.Errorf("the next start: %+v", s)
	}
}
