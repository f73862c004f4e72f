package appservice

import (
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

// Draft is what an administrator decides about a registration that is to be made.
type Draft struct {
	ID     string
	URL    string // "": nothing is pushed to it
	Sender string // the localpart of its own user; "": the ID and "bot"

	// Regular expressions of names. Without any it gets the users whose names begin
	// with its ID and "_".
	Users, Aliases, Rooms []string
	Shared                bool // others may have users and aliases of these names, too

	Protocols  []string
	Ephemeral  bool // typing, receipts, presence and to-device messages
	Encryption bool // device lists and key counts, and devices without a login
}

// file is a registration with the names that homeservers and bridges know, the older
// ones of extensions included. Spec: as#registration, MSC2409, MSC3202, MSC4190
type file struct {
	ID           string     `yaml:"id"`
	URL          *string    `yaml:"url"`
	ASToken      string     `yaml:"as_token"`
	HSToken      string     `yaml:"hs_token"`
	Sender       string     `yaml:"sender_localpart"`
	RateLimited  bool       `yaml:"rate_limited"`
	Namespaces   fileSpaces `yaml:"namespaces"`
	Protocols    []string   `yaml:"protocols,omitempty"`
	Ephemeral    bool       `yaml:"receive_ephemeral,omitempty"`
	EphemeralOld bool       `yaml:"de.sorunome.msc2409.push_ephemeral,omitempty"`
	Encryption   bool       `yaml:"org.matrix.msc3202,omitempty"`
	Devices      bool       `yaml:"io.element.msc4190,omitempty"`
}

type fileSpaces struct {
	Users   []fileSpace `yaml:"users,omitempty"`
	Aliases []fileSpace `yaml:"aliases,omitempty"`
	Rooms   []fileSpace `yaml:"rooms,omitempty"`
}

type fileSpace struct {
	Regex     string `yaml:"regex"`
	Exclusive bool   `yaml:"exclusive"`
}

// plainName is what a service's ID must be like to make names of it.
var plainName = regexp.MustCompile(`\A[a-z0-9][a-z0-9._-]*\z`)

// Generate makes a registration file with new random tokens for a service of this
// homeserver. Parse reads it. Errors: *Error, which says what to mend.
func Generate(serverName string, d Draft) ([]byte, error) {
	if d.Sender == "" || len(d.Users) == 0 {
		if !plainName.MatchString(d.ID) {
			return nil, &Error{Msg: fmt.Sprintf("%.80q gives no user names: take small letters, digits and . _ - for the ID, or name the sender and the users", d.ID)}
		}
	}
	if d.Sender == "" {
		d.Sender = d.ID + "bot"
	}
	if len(d.Users) == 0 {
		d.Users = []string{"^@" + regexp.QuoteMeta(d.ID) + "_.*:" + regexp.QuoteMeta(serverName) + "$"}
	}
	spaces := func(list []string, exclusive bool) (out []fileSpace) {
		for _, regex := range list {
			out = append(out, fileSpace{regex, exclusive})
		}
		return out
	}
	// 260 bits each.
	f := file{ID: d.ID, ASToken: rand.Text() + rand.Text(), HSToken: rand.Text() + rand.Text(), Sender: d.Sender,
		Namespaces: fileSpaces{spaces(d.Users, !d.Shared), spaces(d.Aliases, !d.Shared), spaces(d.Rooms, false)},
		Protocols:  d.Protocols, Ephemeral: d.Ephemeral, EphemeralOld: d.Ephemeral, Encryption: d.Encryption, Devices: d.Encryption}
	if d.URL != "" {
		f.URL = &d.URL
	}
	text, err := yaml.Marshal(f)
	if err != nil {
		return nil, err
	}
	var wrong *Error
	if _, err := Parse(text); errors.As(err, &wrong) {
		return nil, &Error{Msg: wrong.Msg} // its line is in a file that nobody has
	} else if err != nil {
		return nil, err
	}
	// A comment for whoever finds it; the tokens are secrets.
	head := "# The registration of the application service " + strings.ToValidUTF8(d.ID, "?") + " at " + serverName + ".\n" +
		"# Give it to the service as well. Whoever has the tokens in it can act as the service: keep it secret.\n"
	if strings.ContainsFunc(d.ID, func(c rune) bool { return c < ' ' || c == 0x7f || c == 0x85 || c == 0x2028 || c == 0x2029 }) {
		return text, nil // it would break out of the comment
	}
	return append([]byte(head), text...), nil
}
