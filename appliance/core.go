package appliance

import (
	"context"
	"fmt"
	"net/http"

	"holdfast/identity"
)

// core is what carries the server name: homeserver and identity. It is built
// anew when the wizard chooses another name, while there is no account.
type core struct {
	name       string
	identity   *identity.Service
	pages      http.Handler // identity
	homeserver http.Handler
	federation http.Handler // the federation listener's; nil: nothing
	end        []func()
}

func (c *core) close() {
	for i := len(c.end) - 1; i >= 0; i-- {
		c.end[i]()
	}
}

func (a *Appliance) newCore(ctx context.Context, name string) (c *core, err error) {
	c = &core{name: name}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.identity, err = identity.New(ctx, identity.Options{
		ServerName: name,
		PublicURL:  a.publicURLFor(name),
		Origin:     a.origin,
		DB:         a.db,
		Log:        a.logs.component("identity"),
		Limits:     a.cfg.Limits.Enabled,
	})
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	c.pages = c.identity.Handler()
	c.homeserver = http.NotFoundHandler()
	return c, nil
}

func (a *Appliance) publicURLFor(name string) string {
	if a.cfg.PublicURL != "" {
		return a.cfg.PublicURL
	}
	return "https://" + name
}
