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
}

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
