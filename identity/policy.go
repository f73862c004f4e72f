package identity

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/factor"
	"holdfast/identity/login"
	"holdfast/store"
)

// ErrFactorMissing: the rules want a second factor that the account does not have. It is
// added where people sign in in the browser, and only there.
var ErrFactorMissing = errors.New("identity: the account must have a second factor, which is added at the sign-in page")

// ErrFactorNeeded: the rules want the second factor that would be taken away.
var ErrFactorNeeded = factor.ErrNeeded

// Whom a second factor is wanted of, apart from members of chosen groups.
const (
	FactorNobody   = "nobody"
	FactorRoles    = "roles" // owners, administrators, moderators and auditors
	FactorEveryone = "everyone"
)

// Policy is what an administrator decided about signing in.
type Policy struct {
	// PasswordAlone lets applications that know no second factor sign in with the password
	// of somebody who has one, or should have one.
	PasswordAlone bool
	Factor        FactorPolicy
	// MinPassword is how many characters a new password has at least, whoever sets it and
	// wherever; 0: MinPassword, below which it never goes. Passwords that exist stay good.
	MinPassword int
	// Sessions is how long browsers stay signed in. Where it gets shorter, call EndExpired.
	// Its zero fields: StandardSessions.
	Sessions Lifetimes
}

// Lifetimes are those of browser sessions.
type Lifetimes = account.Lifetimes

// StandardSessions are the lifetimes where nobody decided others.
var StandardSessions = account.StandardLifetimes

// Bounds of what may be decided.
const (
	MinPassword    = account.MinPassword
	MaxMinPassword = 64 // a password may always be as short. Source: NIST SP 800-63B section 3.1.1.2
	MinSession     = time.Hour
	MaxSession     = 365 * 24 * time.Hour // browsers keep no cookie for much longer
	MinSessionIdle = 5 * time.Minute
)

// FactorPolicy is who must have a second factor. Accounts without one are led to add it
// when they sign in: they are never shut out, so that whoever decides this cannot shut
// out themselves.
type FactorPolicy struct {
	Who    string        // FactorNobody or "", FactorRoles, FactorEveryone
	Groups []string      // IDs of groups whose members must, too; those that are gone count nothing
	Grace  time.Duration // for how long it can be put off, from Since or since the account was made
	Since  time.Time     // when it was decided who must
}

func (s *Service) policy() Policy {
	if s.o.Policy == nil {
		return Policy{}
	}
	return s.o.Policy()
}

// minPassword and lifetimes keep to the bounds whatever the settings in the database say.
func (s *Service) minPassword() int {
	return min(max(MinPassword, s.policy().MinPassword), MaxMinPassword)
}

func (s *Service) lifetimes() Lifetimes {
	l := s.policy().Sessions
	if l.Most == 0 {
		l.Most = StandardSessions.Most
	}
	l.Most = min(max(MinSession, l.Most), MaxSession)
	if l.Idle != 0 {
		l.Idle = min(max(MinSessionIdle, l.Idle), l.Most)
	}
	return l
}

// EndExpired ends browser sessions that are older than they may be by now, as they end
// otherwise: applications that they signed somebody in to are told.
func (s *Service) EndExpired(ctx context.Context) error { return s.sweep(ctx) }

// demand is what the rules want of somebody.
func (s *Service) demand(ctx context.Context, u User) (d login.Demand, err error) {
	if p := s.policy().Factor; p.Who == FactorEveryone || len(p.Groups) == 0 {
		return s.demandTx(nil, u) // nothing is read
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		d, err = s.demandTx(q, u)
		return err
	})
	return d, err
}

func (s *Service) demandTx(q store.Querier, u User) (login.Demand, error) {
	p := s.policy().Factor
	wanted := p.Who == FactorEveryone || p.Who == FactorRoles && u.Roles != 0
	if !wanted && len(p.Groups) > 0 {
		groups, err := s.accounts.LoadGroups(q, u.ID)
		if err != nil {
			return login.Demand{}, err
		}
		wanted = slices.ContainsFunc(groups, func(g Group) bool { return slices.Contains(p.Groups, g.ID) })
	}
	if !wanted {
		return login.Demand{}, nil
	}
	from := p.Since
	if u.Created.After(from) {
		from = u.Created
	}
	return login.Demand{Wanted: true, Due: from.Add(p.Grace)}, nil
}

// factorNeeded reports whether the rules want that an account keeps its last factor.
func (s *Service) factorNeeded(q store.Querier, id string) (bool, error) {
	u, err := s.accounts.LoadByID(q, id)
	if err != nil {
		return false, err
	}
	d, err := s.demandTx(q, u)
	return d.Wanted, err
}

// Enough reports whether a browser's session satisfies the rules about second factors.
// enrol is true where it does not because there is none yet.
func (s *Service) Enough(ctx context.Context, b Browser) (enough, enrol bool, err error) {
	enough, err = s.pages.Enough(ctx, b)
	if err != nil || enough {
		return enough, false, err
	}
	has, err := s.factors.Of(ctx, b.User.ID)
	return false, !has.Any(), err
}

// FactorCount is how many people a second factor is wanted of, and how many of them have
// none.
type FactorCount struct{ Wanted, Missing int }

// CountFactors counts open accounts by what the rules want of them.
func (s *Service) CountFactors(ctx context.Context) (c FactorCount, err error) {
	all, err := s.accounts.List(ctx)
	if err != nil {
		return c, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		have, err := s.factors.EverybodyTx(q)
		if err != nil {
			return err
		}
		for _, u := range all {
			if u.State != account.Active {
				continue
			}
			d, err := s.demandTx(q, u)
			if err != nil {
				return err
			}
			if !d.Wanted {
				continue
			}
			c.Wanted++
			if !have[u.ID] {
				c.Missing++
			}
		}
		return nil
	})
	return c, err
}
