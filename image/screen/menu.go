package screen

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// page is what a session shows; nil is the status.
type page interface {
	draw(c *canvas, in Info)
	// key takes a key and returns the page to show after it.
	key(s *session, k key) page
}

const longestInput = 128

// field is a line to type in.
type field struct {
	label, value string
	hidden       bool
}

func (f *field) key(k key) {
	switch {
	case k == keyClear:
		f.value = ""
	case k == keyBackspace && f.value != "":
		_, n := utf8.DecodeLastRuneInString(f.value)
		f.value = f.value[:len(f.value)-n]
	case k >= ' ' && utf8.RuneCountInString(f.value) < longestInput:
		f.value += string(rune(k))
	}
}

// form is a text with lines to type in.
type form struct {
	title  string
	text   []string
	fields []field
	at     int
	err    string
	back   func() page // nil: to the status
	submit func(s *session, values []string) page
}

func (f *form) draw(c *canvas, _ Info) {
	c.bar(0, f.title, "")
	y := 2
	for _, t := range f.text {
		y = c.para(y, 1, cols-2, 6, plain, t) + 1
	}
	for i := range f.fields {
		s := plain
		if i == f.at {
			s = bold
		}
		c.put(y, 1, cols-2, s, f.fields[i].label)
		v := []rune(f.fields[i].value)
		if f.fields[i].hidden {
			v = []rune(strings.Repeat("*", len(v)))
		}
		const width = cols - 6
		v = v[max(0, len(v)-width+1):]
		x := c.put(y+1, 3, width, s, string(v))
		if i == f.at {
			c.put(y+1, x, 1, inverse, " ")
		}
		y += 3
	}
	c.para(y, 1, cols-2, rows-1-y, alarm, f.err)
	c.bar(rows-1, "Enter: go on    Ctrl-U: empty the line    Esc: back", "")
}

func (f *form) key(s *session, k key) page {
	switch k {
	case keyEscape:
		return back(f.back)
	case keyUp:
		f.at = max(0, f.at-1)
	case keyDown:
		f.at = min(len(f.fields)-1, f.at+1)
	case keyEnter:
		if f.at < len(f.fields)-1 {
			f.at++
			return f
		}
		values := make([]string, len(f.fields))
		for i := range f.fields {
			values[i] = strings.TrimSpace(f.fields[i].value)
		}
		f.err = ""
		return f.submit(s, values)
	default:
		f.fields[f.at].key(k)
	}
	return f
}

// failed shows the form again with what was wrong; hidden fields are typed anew.
func (f *form) failed(err error) page {
	f.err = sentence(err)
	f.at = 0
	for i := range f.fields {
		if f.fields[i].hidden {
			f.fields[i].value = ""
		}
	}
	return f
}

func sentence(err error) string {
	t := err.Error()
	r, n := utf8.DecodeRuneInString(t)
	t = strings.ToUpper(string(r)) + t[n:]
	if !strings.HasSuffix(t, ".") {
		t += "."
	}
	return t
}

func back(f func() page) page {
	if f == nil {
		return nil
	}
	return f()
}

// choice is a line of a list.
type choice struct {
	text string
	do   func(s *session) page
}

// list is a text with lines to choose from.
type list struct {
	title   string
	text    []string
	choices []choice
	at      int
	back    func() page
}

// longestList is how many lines are chosen from, by one digit each.
const longestList = 9

func (l *list) draw(c *canvas, _ Info) {
	c.bar(0, l.title, "")
	y := 2
	for _, t := range l.text {
		y = c.para(y, 1, cols-2, 6, plain, t) + 1
	}
	for i, ch := range l.choices {
		s := plain
		if i == l.at {
			s = inverse
		}
		c.put(y, 1, cols-2, s, fmt.Sprintf(" %d  %s ", i+1, ch.text))
		y++
	}
	c.bar(rows-1, "A digit, or arrows and Enter: choose    Esc: back", "")
}

func (l *list) key(s *session, k key) page {
	switch {
	case k == keyEscape:
		return back(l.back)
	case k == keyUp:
		l.at = max(0, l.at-1)
	case k == keyDown:
		l.at = min(len(l.choices)-1, l.at+1)
	case k == keyEnter && l.at < len(l.choices):
		return l.choices[l.at].do(s)
	case k >= '1' && k <= '9' && int(k-'1') < len(l.choices):
		return l.choices[k-'1'].do(s)
	}
	return l
}

// message is a text to read.
type message struct {
	title string
	text  []string
	lines []string // the last ones that there is room for
	qr    string
	back  func() page
}

func (m *message) draw(c *canvas, _ Info) {
	c.bar(0, m.title, "")
	width := cols - 2
	if m.qr != "" {
		if n := c.code(2, cols-1, m.qr); n > 0 {
			width -= n + 2
		}
	}
	y := 2
	for _, t := range m.text {
		y = c.para(y, 1, width, 8, plain, t) + 1
	}
	var lines []string
	for _, l := range m.lines {
		lines = append(lines, wrap(l, cols)...)
	}
	for _, l := range lines[max(0, len(lines)-(rows-1-y)):] {
		c.put(y, 0, cols, plain, l)
		y++
	}
	c.bar(rows-1, "Enter: back", "")
}

func (m *message) key(_ *session, k key) page {
	if k == keyEnter || k == keyEscape {
		return back(m.back)
	}
	return m
}

// working stands there while something is done.
type working struct {
	text   string
	cancel context.CancelFunc
}

func (w *working) draw(c *canvas, _ Info) {
	c.bar(0, "One moment", "")
	c.para(2, 1, cols-2, 6, plain, w.text)
	c.bar(rows-1, "Esc: give up", "")
}

func (w *working) key(_ *session, k key) page {
	if k == keyEscape {
		w.cancel()
	}
	return w
}

// do runs something that takes a while; then is called with its error.
func (s *session) do(text string, f func(ctx context.Context) error, then func(err error) page) page {
	ctx, cancel := context.WithCancel(s.ctx)
	w := &working{text, cancel}
	go func() {
		err := f(ctx)
		cancel()
		select {
		case s.done <- finished{w, func() page { return then(err) }}:
		case <-s.ctx.Done():
		}
	}()
	return w
}

// finished is what do ends with.
type finished struct {
	of   *working
	next func() page
}

// enter is what Enter on the status leads to.
func (s *session) enter() page {
	in := s.info()
	if in.Passphrase && s.acts.Unlock != nil {
		return s.passphrase()
	}
	return s.guarded(in)
}

// guarded is the menu, behind the password if there is one.
func (s *session) guarded(in Info) page {
	if !in.Locked || s.acts.CheckPassword == nil {
		return s.menu()
	}
	f := &form{title: "Console password", text: []string{"This machine's menu is locked with the console password."},
		fields: []field{{label: "Password", hidden: true}}}
	f.submit = func(s *session, v []string) page {
		return s.do("Checking the password.", func(ctx context.Context) error {
			return pause(ctx, s.acts.CheckPassword(ctx, v[0]))
		}, func(err error) page {
			if err != nil {
				return f.failed(err)
			}
			return s.menu()
		})
	}
	return f
}

// pause makes guessing slow.
func pause(ctx context.Context, err error) error {
	if err != nil {
		select {
		case <-time.After(wrongPause):
		case <-ctx.Done():
		}
	}
	return err
}

func (s *session) passphrase() page {
	f := &form{title: "Recovery passphrase", text: []string{"The data on this machine is encrypted. Type the recovery passphrase that was printed when it was set up; dashes and capitals do not matter."},
		fields: []field{{label: "Recovery passphrase", hidden: true}}}
	f.submit = func(s *session, v []string) page {
		return s.do("Trying the passphrase; this takes some seconds.", func(ctx context.Context) error {
			return pause(ctx, s.acts.Unlock(ctx, v[0]))
		}, func(err error) page {
			if err != nil {
				return f.failed(err)
			}
			return nil
		})
	}
	return f
}

func (s *session) menu() page {
	a := s.acts
	l := &list{title: "Menu"}
	add := func(on bool, text string, do func(s *session) page) {
		if on {
			l.choices = append(l.choices, choice{text, do})
		}
	}
	in := s.info()
	add(in.Passphrase && a.Unlock != nil, "Type the recovery passphrase", func(s *session) page { return s.passphrase() })
	add(a.Automatic != nil, "Network", (*session).network)
	add(a.NewClaim != nil && in.Claim != "", "Make a new claim code; the one that was shown becomes useless", (*session).claim)
	// Who has stolen a machine that its own chip unlocks must not come by this to what
	// is on it: without a console password nobody knows who stands here.
	add(a.AdminInvite != nil && in.Claim == "" && in.Locked, "Make a link for a new administrator", (*session).invite)
	add(a.NewRecovery != nil && (in.Claim != "" || in.Locked), "Make a new recovery passphrase for the data", (*session).recovery)
	add(a.Sticks != nil, "Update from a USB stick", (*session).sticks)
	add(a.Log != nil, "Last lines of the log", func(s *session) page {
		return &message{title: "Log", lines: s.acts.Log(rows), back: s.menu}
	})
	add(a.KernelLog != nil, "Last lines of the kernel's log", func(s *session) page {
		return &message{title: "The kernel's log", lines: s.acts.KernelLog(rows), back: s.menu}
	})
	add(a.Restart != nil, "Restart", func(s *session) page {
		return s.sure("Restart", "Everybody is disconnected for about a minute.", s.acts.Restart)
	})
	add(a.ShutDown != nil, "Shut down", func(s *session) page {
		return s.sure("Shut down", "Nobody reaches the appliance until somebody switches it on again.", s.acts.ShutDown)
	})
	return l
}

// sure asks before something that people notice.
func (s *session) sure(title, text string, do func()) page {
	return s.yes(title, []string{text}, s.menu, func(s *session) page {
		do()
		return nil
	})
}

// yes asks for the whole word: noise on a serial line does not write it.
func (s *session) yes(title string, text []string, back func() page, do func(s *session) page) page {
	f := &form{title: title, text: text, fields: []field{{label: "Type yes to do it"}}, back: back}
	f.submit = func(s *session, v []string) page {
		if !strings.EqualFold(v[0], "yes") {
			f.err = "Nothing was done. Type the word yes, or press Esc."
			return f
		}
		return do(s)
	}
	return f
}

func (s *session) network() page {
	l := &list{title: "Network", text: []string{"Choose a port. Bonds, VLANs, IPv6 and time servers are set in the web console."}, back: s.menu}
	for _, p := range s.info().Ports {
		if len(l.choices) == longestList {
			break
		}
		l.choices = append(l.choices, choice{fmt.Sprintf("%s  %s", p.line(), p.MAC), func(s *session) page { return s.port(p) }})
	}
	if len(l.choices) == 0 {
		return &message{title: "Network", text: []string{"This machine has no network port that works. The log says which drivers were loaded; another network card may help."}, back: s.menu}
	}
	return l
}

func (s *session) port(p Port) page {
	text := []string{"Now: " + p.line()}
	if p.Gateway != "" {
		text = append(text, "Gateway: "+p.Gateway)
	}
	if len(p.DNS) > 0 {
		text = append(text, "Name servers: "+strings.Join(p.DNS, " "))
	}
	text = append(text, p.Problems...)
	here := func() page { return s.port(p) }
	return &list{title: "Network port " + p.Name, text: text, back: s.network, choices: []choice{
		{"Automatic: ask the network (DHCP, IPv6 by router)", func(s *session) page {
			return s.do("Asking the network.", func(ctx context.Context) error { return s.acts.Automatic(ctx, p.Name) }, s.applied(here))
		}},
		{"Fixed IPv4 address", func(s *session) page {
			f := &form{title: "Network port " + p.Name, back: here, fields: []field{
				{label: "Address with its network, for example 192.168.1.20/24"},
				{label: "Gateway (empty: none)", value: p.Gateway},
				{label: "Name servers (empty: none)", value: strings.Join(p.DNS, " ")},
			}}
			for _, a := range p.Addresses {
				if !strings.Contains(a, ":") {
					f.fields[0].value = a
					break
				}
			}
			f.submit = func(s *session, v []string) page {
				return s.do("Setting the address.", func(ctx context.Context) error {
					return s.acts.Fixed(ctx, p.Name, Fixed{v[0], v[1], v[2]})
				}, func(err error) page {
					if err != nil {
						return f.failed(err)
					}
					return s.applied(here)(nil)
				})
			}
			return f
		}},
	}}
}

// applied says how a change of the network went.
func (s *session) applied(failed func() page) func(err error) page {
	return func(err error) page {
		if err != nil {
			return &message{title: "Network", text: []string{sentence(err)}, back: failed}
		}
		return &message{title: "Network", text: []string{"Done. It stays after a restart."}, back: s.network}
	}
}

func (s *session) claim() page {
	return s.yes("New claim code", []string{"The code that was shown until now becomes useless."}, s.menu, func(s *session) page {
		return s.do("Making a new code.", s.acts.NewClaim, func(err error) page {
			if err != nil {
				return &message{title: "New claim code", text: []string{sentence(err)}, back: s.menu}
			}
			return nil // the status shows it
		})
	})
}

func (s *session) invite() page {
	const title = "New administrator"
	return s.yes(title, []string{"Whoever opens the link within an hour makes an account that administers this appliance."}, s.menu, func(s *session) page {
		var link string
		return s.do("Making the link.", func(ctx context.Context) (err error) {
			link, err = s.acts.AdminInvite(ctx)
			return err
		}, func(err error) page {
			if err != nil {
				return &message{title: title, text: []string{sentence(err)}, back: s.menu}
			}
			return &message{title: title, text: []string{"Open this within an hour; it works once:", link}, qr: link, back: s.menu}
		})
	})
}

func (s *session) recovery() page {
	const title = "New recovery passphrase"
	return s.yes(title, []string{"A new recovery passphrase is made and shown here. Once you have written it down and typed it again, the one before is useless."}, s.menu, func(s *session) page {
		var secret string
		return s.do("Making a passphrase.", func(ctx context.Context) (err error) {
			secret, err = s.acts.NewRecovery(ctx)
			return err
		}, func(err error) page {
			if err != nil {
				return &message{title: title, text: []string{sentence(err)}, back: s.menu}
			}
			f := &form{title: title, text: []string{"Write this down on paper, and keep it where the machine is not:", secret, "Without it nobody reads the data when the machine breaks and its disk is put into another one."},
				fields: []field{{label: "Type it again"}}, back: s.menu}
			f.submit = func(s *session, v []string) page {
				return s.do("Checking it and writing it to the disk; this takes some seconds.", func(ctx context.Context) error {
					return s.acts.ConfirmRecovery(ctx, v[0])
				}, func(err error) page {
					if err != nil {
						return f.failed(err)
					}
					return &message{title: title, text: []string{"It is in force now."}, back: s.menu}
				})
			}
			return f
		})
	})
}

func (s *session) sticks() page {
	const title = "Update from a USB stick"
	var found []Stick
	return s.do("Looking at the USB sticks.", func(ctx context.Context) (err error) {
		found, err = s.acts.Sticks(ctx)
		return err
	}, func(err error) page {
		if err != nil {
			return &message{title: title, text: []string{sentence(err)}, back: s.menu}
		}
		l := &list{title: title, text: []string{"Choose a version."}, back: s.menu}
		for _, f := range found {
			if len(l.choices) == longestList {
				break
			}
			l.choices = append(l.choices, choice{f.Version + "  " + f.File + " on " + f.Device, func(s *session) page { return s.stage(f) }})
		}
		if len(l.choices) == 0 {
			return &message{title: title, text: []string{"No update was found. It is a file that ends in .hfu, in the uppermost folder of a stick with FAT or ext4."}, back: s.menu}
		}
		return l
	})
}

func (s *session) stage(f Stick) page {
	const title = "Update from a USB stick"
	text := []string{"Version " + f.Version + " is checked, copied to the disk and started. If it does not work, the version of now returns by itself."}
	if f.Older {
		text = append(text, "It is older than the one that runs. It lacks what was mended since, holes in its security among it.")
	}
	if f.Notes != "" {
		text = append(text, f.Notes)
	}
	return s.yes(title, text, s.sticks, func(s *session) page {
		return s.do("Checking and copying the update; this takes a minute or two.", func(ctx context.Context) error { return s.acts.Stage(ctx, f) }, func(err error) page {
			if err != nil {
				return &message{title: title, text: []string{sentence(err)}, back: s.menu}
			}
			return s.yes(title, []string{"Version " + f.Version + " is ready and starts with the next restart.", "Restart now? Everybody is disconnected for about a minute."}, nil, func(s *session) page {
				s.acts.Restart()
				return nil
			})
		})
	})
}
