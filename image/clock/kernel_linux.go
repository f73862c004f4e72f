package clock

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// real is the kernel's clock, with the battery-backed one whose device it names.
type real string

func system(rtc string) Kernel { return real(rtc) }

// Now is without the monotonic reading, by which a clock that is set would not differ.
func (real) Now() time.Time { return time.Now().Round(0) }

func denied(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return ErrPermission
	}
	return err
}

func (real) Step(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return denied(fmt.Errorf("the kernel refuses to set the clock: %w", err))
	}
	return nil
}

func (real) Slew(offset time.Duration) error {
	tx := unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: offset.Microseconds()}
	if _, err := unix.Adjtimex(&tx); err != nil {
		return denied(fmt.Errorf("the kernel refuses to adjust the clock: %w", err))
	}
	return nil
}

func (r real) open(flag int) (*os.File, error) {
	if r == "" {
		return nil, ErrNoRTC
	}
	f, err := os.OpenFile(string(r), flag, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil, ErrNoRTC
	}
	if err != nil {
		return nil, denied(err)
	}
	return f, nil
}

func (r real) RTC() (time.Time, error) {
	f, err := r.open(os.O_RDONLY)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	t, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		return time.Time{}, denied(fmt.Errorf("%s: %w", r, err))
	}
	return time.Date(int(t.Year)+1900, time.Month(t.Mon+1), int(t.Mday), int(t.Hour), int(t.Min), int(t.Sec), 0, time.UTC), nil
}

func (r real) SetRTC(t time.Time) error {
	f, err := r.open(os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	t = t.UTC().Add(500 * time.Millisecond) // it has whole seconds
	v := unix.RTCTime{
		Sec: int32(t.Second()), Min: int32(t.Minute()), Hour: int32(t.Hour()),
		Mday: int32(t.Day()), Mon: int32(t.Month() - 1), Year: int32(t.Year() - 1900),
	}
	if err := unix.IoctlSetRTCTime(int(f.Fd()), &v); err != nil {
		return denied(fmt.Errorf("%s: %w", r, err))
	}
	return nil
}
