package identity

import (
	"context"

	"holdfast/identity/account"
	"holdfast/store"
	"holdfast/store/audit"
)

// Roles and groups, under the names that callers use.
type (
	Roles = account.Roles
	Group = account.Group
	Actor = account.Actor
)

// The roles.
const (
	Owner     = account.Owner
	Admin     = account.Admin
	Moderator = account.Moderator
	Auditor   = account.Auditor
)

// Errors about roles and groups.
var (
	ErrRole        = account.ErrRole
	ErrOwner       = account.ErrOwner
	ErrLastOwner   = account.ErrLastOwner
	ErrGroupRole   = account.ErrGroupRole
	ErrNoGroup     = account.ErrNoGroup
	ErrGroupExists = account.ErrGroupExists
	ErrGroupName   = account.ErrGroupName
	ErrGroupSource = account.ErrGroupSource
)

// ParseRole reads the name of a role. Errors: ErrRole.
func ParseRole(name string) (Roles, error) { return account.ParseRole(name) }

// WithActor says who asks for what is done with the context. Without it, it is the
// appliance or whoever commands it at the machine, who may do everything.
func WithActor(ctx context.Context, userID string) context.Context {
	return account.WithActor(audit.As(ctx, userID), Actor{UserID: userID})
}

// MayChange reports whether an account may be changed by who asks. Errors: ErrNoUser, ErrOwner.
func (s *Service) MayChange(ctx context.Context, userID string) error {
	u, err := s.User(ctx, userID)
	if err != nil {
		return err
	}
	return s.o.DB.Read(ctx, func(q store.Querier) error { return s.accounts.MayChangeTx(ctx, q, u) })
}

// Grant gives somebody a role. Errors: ErrNoUser, ErrOwner, ErrDeactivated.
func (s *Service) Grant(ctx context.Context, userID string, role Roles) error {
	return s.withUser(ctx, userID, func(tx *store.Tx, u User) error { return s.accounts.GrantTx(ctx, tx, u, role) })
}

// Revoke takes a role away that somebody was given. Errors: ErrNoUser, ErrOwner, ErrLastOwner.
func (s *Service) Revoke(ctx context.Context, userID string, role Roles) error {
	return s.withUser(ctx, userID, func(tx *store.Tx, u User) error { return s.accounts.RevokeTx(ctx, tx, u, role) })
}

// OwnRoles are the roles that somebody was given themselves. Errors: ErrNoUser.
func (s *Service) OwnRoles(ctx context.Context, userID string) (r Roles, err error) {
	u, err := s.User(ctx, userID)
	if err != nil {
		return 0, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		r, err = s.accounts.OwnRoles(q, u.ID)
		return err
	})
	return r, err
}

// Groups lists all groups by name.
func (s *Service) Groups(ctx context.Context) ([]Group, error) { return s.accounts.AllGroups(ctx) }

// GroupID finds a group's ULID by its name. Errors: ErrNoGroup.
func (s *Service) GroupID(ctx context.Context, name string) (id string, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		g, err := s.accounts.LoadGroup(q, name)
		id = g.ID
		return err
	})
	return id, err
}

// GroupName is a group's name by its ULID. Errors: store.ErrNotFound.
func (s *Service) GroupName(q store.Querier, id string) (string, error) {
	return s.accounts.GroupName(q, id)
}

// GroupMembers are the user IDs of who is in a group, by its ULID, and whose account is open.
func (s *Service) GroupMembers(q store.Querier, id string) ([]string, error) {
	return s.accounts.ActiveMembers(q, id)
}

// GroupsOf lists the groups that somebody is in, by name. Errors: ErrNoUser.
func (s *Service) GroupsOf(ctx context.Context, userID string) ([]Group, error) {
	u, err := s.User(ctx, userID)
	if err != nil {
		return nil, err
	}
	return s.accounts.Groups(ctx, u.ID)
}

// Members lists who is in a group. Errors: ErrNoGroup.
func (s *Service) Members(ctx context.Context, group string) (out []User, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		g, err := s.accounts.LoadGroup(q, group)
		if err != nil {
			return err
		}
		ids, err := s.accounts.MemberIDs(q, g)
		if err != nil {
			return err
		}
		out = []User{}
		for _, id := range ids {
			u, err := s.accounts.LoadByID(q, id)
			if err != nil {
				return err
			}
			out = append(out, u)
		}
		return nil
	})
	return out, err
}

// CreateGroup makes a group. Errors: ErrGroupName, ErrGroupExists.
func (s *Service) CreateGroup(ctx context.Context, name string) (g Group, err error) {
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		g, err = s.accounts.CreateGroupTx(tx, name, account.LocalGroup)
		return err
	})
	return g, err
}

// withGroup runs fn in a write with a group, whose members' tokens are read anew
// afterwards.
func (s *Service) withGroup(ctx context.Context, name string, fn func(tx *store.Tx, g Group) error) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		g, err := s.accounts.LoadGroup(tx, name)
		if err != nil {
			return err
		}
		ids, err := s.accounts.MemberIDs(tx, g)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() {
			for _, id := range ids {
				s.sessions.DropUser(id)
			}
		})
		return fn(tx, g)
	})
}

// RenameGroup gives a group another name; applications stay its people's. Errors:
// ErrNoGroup, ErrGroupName, ErrGroupExists, ErrGroupSource.
func (s *Service) RenameGroup(ctx context.Context, name, to string) error {
	return s.withGroup(ctx, name, func(tx *store.Tx, g Group) error { return s.accounts.RenameGroupTx(tx, g, to) })
}

// groupRenamed has the tokens of a group's members read anew.
func (s *Service) groupRenamed(tx *store.Tx, g Group) error {
	ids, err := s.accounts.MemberIDs(tx, g)
	if err != nil {
		return err
	}
	tx.AfterCommit(func() {
		for _, id := range ids {
			s.sessions.DropUser(id)
		}
	})
	return nil
}

// DeleteGroup removes a group; its members stay as people, and applications that they
// could use through it alone end for them. Errors: ErrNoGroup.
func (s *Service) DeleteGroup(ctx context.Context, name string) error {
	return s.withGroup(ctx, name, func(tx *store.Tx, g Group) error {
		ids, err := s.accounts.MemberIDs(tx, g)
		if err != nil {
			return err
		}
		apps, err := s.clients.GroupGoneTx(tx, g)
		if err != nil {
			return err
		}
		if err := s.accounts.DeleteGroupTx(tx, g); err != nil || len(apps) == 0 {
			return err
		}
		for _, id := range ids {
			if err := s.sessions.LeftTx(tx, id, true); err != nil {
				return err
			}
		}
		return nil
	})
}

// GrantGroup gives the members of a group a role. Errors: ErrNoGroup, ErrGroupRole.
func (s *Service) GrantGroup(ctx context.Context, name string, role Roles) error {
	return s.withGroup(ctx, name, func(tx *store.Tx, g Group) error { return s.accounts.GrantGroupTx(tx, g, role) })
}

// RevokeGroup takes a role away from the members of a group. Errors: ErrNoGroup.
func (s *Service) RevokeGroup(ctx context.Context, name string, role Roles) error {
	return s.withGroup(ctx, name, func(tx *store.Tx, g Group) error { return s.accounts.RevokeGroupTx(tx, g, role) })
}

// SetMember puts somebody into a group or takes them out. Errors: ErrNoGroup,
// ErrNoUser, ErrGroupSource, ErrDeactivated.
func (s *Service) SetMember(ctx context.Context, group, userID string, in bool) error {
	return s.asked(ctx, userID, func(tx *store.Tx, u User) error {
		g, err := s.accounts.LoadGroup(tx, group)
		if err != nil {
			return err
		}
		if in {
			return s.accounts.AddMemberTx(tx, g, u)
		}
		if err := s.accounts.RemoveMemberTx(tx, g, u); err != nil {
			return err
		}
		return s.sessions.LeftTx(tx, u.ID, false)
	})
}

// listGroups takes the groups of an account, by its ULID, in a list, in full.
func (s *Service) listGroups(ctx context.Context, id, list string, names []string) error {
	groups := make([]account.DirectoryGroup, len(names))
	for i, n := range names {
		groups[i].Name = n
	}
	return s.directoryGroups(ctx, id, list, groups)
}

// directoryGroups takes the groups of an account, by its ULID, in a directory, in full.
func (s *Service) directoryGroups(ctx context.Context, id, directory string, groups []account.DirectoryGroup) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		u, err := s.accounts.LoadByID(tx, id)
		if err != nil {
			return err
		}
		if err := s.accounts.SetDirectoryGroupsTx(tx, u, directory, groups); err != nil {
			return err
		}
		return s.regrouped(tx, u.ID)
	})
}

// regrouped follows that somebody, by their ULID, may be in other groups than before.
func (s *Service) regrouped(tx *store.Tx, id string) error {
	tx.AfterCommit(func() { s.sessions.DropUser(id) })
	return s.sessions.LeftTx(tx, id, false)
}
