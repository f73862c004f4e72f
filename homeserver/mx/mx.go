// Package mx has the vocabulary that all of the homeserver shares: identifiers,
// error codes and the contents of common events.
//
// Invariants: the package imports only the standard library; parsing never
// panics and never accepts more than the specification's size limits.
package mx

import "encoding/json"

// Raw is JSON that is passed on as it came.
type Raw = json.RawMessage
