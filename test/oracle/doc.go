// Package oracle compares our room events with two other implementations:
// gomatrixserverlib and mautrix-go. It is a module of its own, so that neither
// becomes a dependency of the server.
//
// Invariants: it has tests only; where the oracles are known to be wrong or
// stricter than the specification, the test names the case.
//
// Run it with:
//
//	cd test/oracle && GOEXPERIMENT=jsonv2 CGO_ENABLED=0 go test -count=1 -tags goolm ./...
package oracle
