// Package machine joins what the disk image knows of its computer (data partition,
// versions, network, clock, power) into what the appliance's console shows and
// changes.
//
// Invariants: it decides nothing that the parts below can decide; every error that
// an administrator can do something about is a web.Error that says what.
package machine
