// Package screen is what stands on the machine's own screen and serial line: how
// the appliance is, where it is reached, and a small menu for what cannot be done
// from a browser.
//
// Invariants: there is no shell behind it; every input has a longest length and is
// only ever handed to the functions of Actions; what stops or changes the machine
// asks first; nobody gets past the status without the console password once there
// is one; whoever walks away leaves the status behind; text from elsewhere cannot
// carry a terminal's commands; only lines that changed are drawn.
package screen

import (
	"context"
	"time"
)

// Info is what the status shows.
type Info struct {
	Name    string // the organisation or the server's name
	Version string
	// Stage says what the machine is doing while it starts or stops; "" once it runs.
	Stage string
	// Trouble is why it does not run, and what to do. It takes the place of the
	// addresses.
	Trouble []string

	URL         string   // where a browser finds it
	MoreURLs    []string // by its other addresses
	Claim       string   // the claim code, while nobody has set the appliance up
	QR          string   // what the QR code says; "" for none
	Fingerprint string   // of the certificate authority or the certificate, SHA-256, in hex with colons
	Ports       []Port
	Disk        string // how the data is protected
	Clock       string
	// Alarms are what is not well, in a sentence each.
	Alarms []string

	// Locked says that the menu asks for the console password.
	Locked bool
	// Passphrase says that the data waits for its recovery passphrase.
	Passphrase bool
}

// Port is a network port.
type Port struct {
	Name      string
	MAC       string
	Link      bool
	Addresses []string // with their networks: "192.168.1.20/24"
	// Static says that the addresses are fixed; else they come from the network.
	Static   bool
	Gateway  string
	DNS      []string
	Problems []string
}

// Fixed is a port's fixed IPv4 configuration as somebody typed it.
type Fixed struct {
	Address string // with its network: "192.168.1.20/24"
	Gateway string // "" for none
	DNS     string // separated by blanks or commas
}

// Stick is an update on a USB stick.
type Stick struct {
	Device, File   string
	Version, Notes string
	Older          bool // than the version that runs
}

// Actions are what the menu does; what is nil is not offered. An error's text is
// shown as it is.
type Actions struct {
	CheckPassword func(ctx context.Context, password string) error
	Unlock        func(ctx context.Context, passphrase string) error
	// Automatic and Fixed configure a port, by its name.
	Automatic func(ctx context.Context, port string) error
	Fixed     func(ctx context.Context, port string, f Fixed) error
	NewClaim  func(ctx context.Context) error
	// AdminInvite makes a link by which somebody becomes an administrator.
	AdminInvite     func(ctx context.Context) (string, error)
	NewRecovery     func(ctx context.Context) (string, error)
	ConfirmRecovery func(ctx context.Context, typed string) error
	Sticks          func(ctx context.Context) ([]Stick, error)
	Stage           func(ctx context.Context, s Stick) error
	Log, KernelLog  func(lines int) []string
	Restart         func()
	ShutDown        func()
}

// Idle is how long nobody may type before the status comes back.
const Idle = 2 * time.Minute

// wrongPause is how long a wrong password or passphrase keeps the line busy.
const wrongPause = 2 * time.Second
