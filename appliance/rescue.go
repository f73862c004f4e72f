package appliance

import (
	"context"
	"time"

	"holdfast/identity"
	"holdfast/store/audit"
)

// inviteTime is how long a link for an administrator is good for who asked for it at
// the machine.
const inviteTime = time.Hour

// AdminInvite makes a link by which one person becomes an administrator: for who
// stands at the machine and has lost all others. The caller checks that they may.
func (a *Appliance) AdminInvite(ctx context.Context) (string, error) {
	i, err := a.core.Load().identity.CreateInvite(audit.As(ctx, audit.CommandLine), identity.NewInvite{Uses: 1, ExpiresIn: inviteTime, Roles: identity.Admin})
	if err != nil {
		return "", err
	}
	a.log.Warn("a link for a new administrator was made at the machine's screen")
	return a.inviteURL(i.Token, ""), nil
}
