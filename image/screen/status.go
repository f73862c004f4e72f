package screen

import (
	"fmt"
	"strings"
)

// status draws how the appliance is.
func status(c *canvas, in Info) {
	name := in.Name
	if name == "" {
		name = "Holdfast"
	} else {
		name = "Holdfast: " + name
	}
	c.bar(0, name, in.Version)
	const x = 1
	width, top := cols-2, 2
	if in.QR != "" && len(in.Trouble) == 0 {
		if n := c.code(2, cols-1, in.QR); n > 0 {
			width = cols - 1 - n - 3
		}
	}
	y := top
	switch {
	case len(in.Trouble) > 0:
		for _, t := range in.Trouble {
			y = c.para(y, x, width, 4, bold, t) + 1
		}
	case in.Stage != "":
		y = c.para(y, x, width, 3, bold, in.Stage) + 1
	}
	if in.URL != "" {
		c.put(y, x, width, plain, "Open this address in a browser:")
		y = c.para(y+1, x+2, width-2, 2, bold, in.URL)
		for i, u := range in.MoreURLs {
			if i == 3 {
				break
			}
			y = c.para(y, x+2, width-2, 1, plain, u)
		}
		y++
	}
	if in.Claim != "" {
		c.put(y, x, width, plain, "Nobody has set it up yet. Claim code:")
		c.put(y+1, x+2, width-2, bold, in.Claim)
		y += 3
	}
	y = facts(c, in, y, width)
	left := rows - 2 - y
	for i, a := range in.Alarms {
		if left <= 0 {
			break
		}
		if left <= 2 && len(in.Alarms)-i > 1 {
			c.para(y, x, width, 1, alarm, fmt.Sprintf("! and %d more; the web console lists them", len(in.Alarms)-i))
			break
		}
		next := c.para(y, x, width, min(left, 3), alarm, "! "+a)
		left -= next - y
		y = next
	}
	switch {
	case in.Passphrase:
		c.bar(rows-1, "Enter: type the recovery passphrase    M: menu", "")
	default:
		c.bar(rows-1, "Enter: menu", "")
	}
}

// facts draws the table of what there is.
func facts(c *canvas, in Info, y, width int) int {
	row := func(label, value string, most int) {
		if value == "" || y >= rows-2 {
			return
		}
		c.put(y, 1, 9, plain, label)
		y = max(y+1, c.para(y, 10, width-9, most, plain, value))
	}
	for i, p := range in.Ports {
		label := "Network"
		if i > 0 {
			label = ""
		}
		if i == 3 && len(in.Ports) > 4 {
			row(label, fmt.Sprintf("and %d ports more", len(in.Ports)-i), 1)
			break
		}
		row(label, p.line(), 2)
	}
	if len(in.Ports) == 0 {
		row("Network", "no network port is there", 1)
	}
	row("Data", in.Disk, 2)
	row("Clock", in.Clock, 2)
	if in.Fingerprint != "" {
		row("Cert.", "SHA-256 "+breakable(in.Fingerprint), 4)
	}
	return y + 1
}

// breakable lets a fingerprint be broken after every eight bytes.
func breakable(s string) string {
	parts := strings.Split(s, ":")
	var out []string
	for len(parts) > 8 {
		out = append(out, strings.Join(parts[:8], ":"))
		parts = parts[8:]
	}
	return strings.Join(append(out, strings.Join(parts, ":")), " ")
}

func (p Port) line() string {
	switch {
	case !p.Link:
		return p.Name + ": no cable, or nothing at its other end"
	case len(p.Addresses) == 0:
		return p.Name + ": waits for an address"
	}
	how := "automatic"
	if p.Static {
		how = "fixed"
	}
	first := p.Addresses[0]
	for _, a := range p.Addresses {
		if !strings.Contains(a, ":") {
			first = a
			break
		}
	}
	return fmt.Sprintf("%s: %s (%s)", p.Name, first, how)
}
