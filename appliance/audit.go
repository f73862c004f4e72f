package appliance

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"holdfast/identity"
	"holdfast/store/audit"
)

// This file has the audit log: opened here, written by those who change things, read by
// the console and the command line.

func (a *Appliance) openAudit(ctx context.Context) error {
	key, err := identity.AuditKey(a.db)
	if err != nil {
		return err
	}
	a.audit, err = audit.Open(ctx, audit.Options{DB: a.db, Key: key, Log: a.logs.component("audit")})
	if err != nil {
		return fmt.Errorf("the audit log cannot be opened: %w", err)
	}
	a.onClose(a.audit.Close)
	return a.audit.Append(ctx, audit.Event{Name: "appliance.start", Data: audit.Data{"version": Version}})
}

// fromAddress has the audit log know where a request came from.
func fromAddress(r *http.Request) *http.Request {
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		ip = r.RemoteAddr
	}
	return r.WithContext(audit.From(r.Context(), ip))
}
