package machine

import (
	"encoding/json"
	"os"
	"testing"

	"holdfast/image/clock"
)

// TestClockSourcesHaveNames holds the clock's sources to the console's texts.
func TestClockSourcesHaveNames(t *testing.T) {
	b, err := os.ReadFile("../../web/ui/src/i18n/en.json")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	if err := json.Unmarshal(b, &texts); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{clock.FromRTC, clock.FromKernel, clock.FromMark, clock.FromBuild, clock.FromNTP, clock.FromAdministrator} {
		if texts["console.machine.source."+s] == "" {
			t.Errorf("the console has no text for the clock's source %q", s)
		}
	}
	if s, err := (Clock{}).ClockState(t.Context()); err != nil || texts["console.machine.source."+s.Source] == "" || s.Alarm == "" {
		t.Errorf("a clock that is not looked after: %+v, %v", s, err)
	}
}
