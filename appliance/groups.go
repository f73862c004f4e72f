package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"holdfast/identity"
	"holdfast/web"
)

// This file has groups and roles: for the console, the local socket and the command line.

// asCaller says who of the console asks, for what only owners may do.
func asCaller(ctx context.Context) context.Context {
	if who := web.Caller(ctx); who != "" {
		return identity.WithActor(ctx, who)
	}
	return ctx
}

// trouble is a mistake that people can do something about, as the console shows it.
type trouble struct {
	err    error
	status int
	code   string
	field  string
	text   string // %s is what else the error says
}

// told is an error as the console shows it, if it is one of these.
func told(err error, list []trouble) (*web.Error, bool) {
	for _, x := range list {
		if errors.Is(err, x.err) {
			why := strings.TrimPrefix(err.Error(), x.err.Error()+": ")
			return &web.Error{Status: x.status, Code: x.code, Field: x.field, Message: strings.Replace(x.text, "%s", why, 1)}, true
		}
	}
	return nil, false
}

// groupTroubles are the mistakes that people can do something about.
var groupTroubles = []trouble{
	{identity.ErrNoUser, http.StatusNotFound, "not_found", "user_id", "There is no such user."},
	{identity.ErrDeactivated, http.StatusConflict, "closed", "", "This account was closed."},
	{identity.ErrRole, http.StatusBadRequest, "bad_role", "role", "There is no such role; the roles are owner, admin, moderator and auditor."},
	{identity.ErrMayNotInvite, http.StatusForbidden, "role", "", "Only an administrator may invite people."},
	{identity.ErrOwner, http.StatusForbidden, "owner", "", "Only an owner may change an owner's account, or make somebody an owner."},
	{identity.ErrLastOwner, http.StatusConflict, "last_owner", "", "This is the last account that owns the appliance. Make another person an owner first."},
	{identity.ErrGroupRole, http.StatusBadRequest, "bad_role", "role", "A group cannot own the appliance. Give the role to single people."},
	{identity.ErrNoGroup, http.StatusNotFound, "no_group", "name", "There is no such group."},
	{identity.ErrGroupExists, http.StatusConflict, "taken", "name", "There is a group of this name. Choose another."},
	{identity.ErrGroupName, http.StatusBadRequest, "bad_name", "name", "The name of a group has 1 to 128 bytes, and no commas or control characters."},
	{identity.ErrGroupSource, http.StatusConflict, "directory", "", "A directory or a list says who is in this group. Change it there."},
}

// groupError is an error as the console shows it.
func groupError(err error) error {
	if shown, ok := told(err, groupTroubles); ok {
		return shown
	}
	return err
}

// groupMessage is an error as the command line prints it, or "".
func groupMessage(err error) string {
	for _, x := range groupTroubles {
		if errors.Is(err, x.err) && x.err != identity.ErrNoUser {
			return strings.TrimSuffix(strings.ToLower(x.text[:1])+x.text[1:], ".")
		}
	}
	return ""
}

func (a console) SetRole(ctx context.Context, userID, role string, on bool) error {
	return groupError(setRole(asCaller(ctx), a.id(), userID, role, on))
}

func setRole(ctx context.Context, id *identity.Service, userID, name string, on bool) error {
	role, err := identity.ParseRole(name)
	switch {
	case err != nil:
		return err
	case on:
		return id.Grant(ctx, userID, role)
	}
	return id.Revoke(ctx, userID, role)
}

// parseRoles reads the names of roles. Errors: identity.ErrRole.
func parseRoles(names []string) (all identity.Roles, err error) {
	for _, n := range names {
		r, err := identity.ParseRole(n)
		if err != nil {
			return 0, err
		}
		all |= r
	}
	return all, nil
}

func (a console) Groups(ctx context.Context) ([]web.Group, error) {
	list, err := a.id().Groups(ctx)
	out := []web.Group{}
	for _, g := range list {
		out = append(out, web.Group{Name: g.Name, Source: g.Source, Members: g.Members, Roles: g.Roles.Names()})
	}
	return out, err
}

func (a console) CreateGroup(ctx context.Context, name string) error {
	_, err := a.id().CreateGroup(ctx, name)
	return groupError(err)
}

func (a console) RenameGroup(ctx context.Context, name, to string) error {
	return groupError(a.id().RenameGroup(ctx, name, to))
}

func (a console) DeleteGroup(ctx context.Context, name string) error {
	return groupError(a.id().DeleteGroup(ctx, name))
}

func (a console) SetGroupRole(ctx context.Context, name, role string, on bool) error {
	return groupError(setGroupRole(ctx, a.id(), name, role, on))
}

func setGroupRole(ctx context.Context, id *identity.Service, group, name string, on bool) error {
	role, err := identity.ParseRole(name)
	switch {
	case err != nil:
		return err
	case on:
		return id.GrantGroup(ctx, group, role)
	}
	return id.RevokeGroup(ctx, group, role)
}

func (a console) Members(ctx context.Context, name string) ([]string, error) {
	list, err := a.id().Members(ctx, name)
	return userIDs(list), groupError(err)
}

func userIDs(list []identity.User) []string {
	out := []string{}
	for _, u := range list {
		out = append(out, u.UserID)
	}
	return out
}

func (a console) SetMember(ctx context.Context, name, userID string, in bool) error {
	return groupError(a.id().SetMember(ctx, name, userID, in))
}

// groupInfo is a group as the command line prints it.
type groupInfo struct {
	Name    string   `json:"name"`
	Source  string   `json:"source"`
	Members int      `json:"members"`
	Roles   []string `json:"roles"`
}

// roleInfo is who has roles.
type roleInfo struct {
	UserID string   `json:"user_id,omitempty"`
	Group  string   `json:"group,omitempty"`
	Roles  []string `json:"roles"` // of a user also those through groups
}

type groupRequest struct {
	Group string `json:"group"`
	To    string `json:"to"`
	User  string `json:"user"`
	Role  string `json:"role"`
	On    bool   `json:"on"`
}

// groupControl are the operations of the local socket about groups and roles.
func (a *Appliance) groupControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	post := func(path string, f func(ctx context.Context, id *identity.Service, in groupRequest) error) {
		handle("POST "+path, func(r *http.Request) (any, error) {
			var in groupRequest
			if err := readJSON(r, &in); err != nil {
				return nil, err
			}
			if in.User != "" {
				in.User = a.userID(in.User)
			}
			return struct{}{}, f(r.Context(), a.core.Load().identity, in)
		})
	}
	handle("GET /v1/groups", func(r *http.Request) (any, error) {
		list, err := a.core.Load().identity.Groups(r.Context())
		out := []groupInfo{}
		for _, g := range list {
			out = append(out, groupInfo{g.Name, g.Source, g.Members, g.Roles.Names()})
		}
		return out, err
	})
	handle("GET /v1/groups/members", func(r *http.Request) (any, error) {
		list, err := a.core.Load().identity.Members(r.Context(), r.URL.Query().Get("group"))
		return userIDs(list), err
	})
	handle("GET /v1/roles", func(r *http.Request) (any, error) {
		out := []roleInfo{}
		groups, err := a.core.Load().identity.Groups(r.Context())
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			if g.Roles != 0 {
				out = append(out, roleInfo{Group: g.Name, Roles: g.Roles.Names()})
			}
		}
		users, err := a.people(r.Context())
		for _, u := range users {
			if u.Roles != 0 {
				out = append(out, roleInfo{UserID: u.UserID, Roles: u.Roles.Names()})
			}
		}
		return out, err
	})
	post("/v1/groups/create", func(ctx context.Context, id *identity.Service, in groupRequest) error {
		_, err := id.CreateGroup(ctx, in.Group)
		return err
	})
	post("/v1/groups/rename", func(ctx context.Context, id *identity.Service, in groupRequest) error {
		return id.RenameGroup(ctx, in.Group, in.To)
	})
	post("/v1/groups/delete", func(ctx context.Context, id *identity.Service, in groupRequest) error {
		return id.DeleteGroup(ctx, in.Group)
	})
	post("/v1/groups/member", func(ctx context.Context, id *identity.Service, in groupRequest) error {
		return id.SetMember(ctx, in.Group, in.User, in.On)
	})
	post("/v1/roles", func(ctx context.Context, id *identity.Service, in groupRequest) error {
		if in.Group != "" {
			return setGroupRole(ctx, id, in.Group, in.Role, in.On)
		}
		return setRole(ctx, id, in.User, in.Role, in.On)
	})
}

// groupCall sends a change and says what it did.
func (c *cli) groupCall(ctx context.Context, path string, in groupRequest, done string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out struct{}
	if err := cl.call(ctx, "POST", path, in, &out); err != nil {
		return err
	}
	fmt.Fprintln(c.out, done)
	return nil
}

func runGroupAdd(ctx context.Context, c *cli, args []string) error {
	return c.groupCall(ctx, "/v1/groups/create", groupRequest{Group: args[0]}, fmt.Sprintf("The group %s was made.", args[0]))
}

func runGroupRename(ctx context.Context, c *cli, args []string) error {
	return c.groupCall(ctx, "/v1/groups/rename", groupRequest{Group: args[0], To: args[1]}, fmt.Sprintf("The group %s is called %s now. Its people and all rules about it stay.\nWhere an application decides by the name of a group, change the name there, too.", args[0], args[1]))
}

func runGroupRemove(ctx context.Context, c *cli, args []string) error {
	return c.groupCall(ctx, "/v1/groups/delete", groupRequest{Group: args[0]}, fmt.Sprintf("The group %s was removed; its people stay.", args[0]))
}

func runGroupJoin(ctx context.Context, c *cli, args []string) error {
	for _, user := range args[1:] {
		if err := c.groupCall(ctx, "/v1/groups/member", groupRequest{Group: args[0], User: user, On: true}, fmt.Sprintf("%s is in %s.", user, args[0])); err != nil {
			return err
		}
	}
	return nil
}

func runGroupLeave(ctx context.Context, c *cli, args []string) error {
	for _, user := range args[1:] {
		if err := c.groupCall(ctx, "/v1/groups/member", groupRequest{Group: args[0], User: user}, fmt.Sprintf("%s is not in %s any more.", user, args[0])); err != nil {
			return err
		}
	}
	return nil
}

func runGroupList(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var list []groupInfo
	if err := cl.call(ctx, "GET", "/v1/groups", nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "There are no groups yet. holdfast group add NAME makes one.")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tPEOPLE\tFROM\tROLES")
	for _, g := range list {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", g.Name, g.Members, g.Source, strings.Join(g.Roles, ", "))
	}
	return w.Flush()
}

func runGroupMembers(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var list []string
	if err := cl.call(ctx, "GET", "/v1/groups/members?"+url.Values{"group": {args[0]}}.Encode(), nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	for _, u := range list {
		fmt.Fprintln(c.out, u)
	}
	return nil
}

func runRoleList(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var list []roleInfo
	if err := cl.call(ctx, "GET", "/v1/roles", nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHO\tROLES")
	for _, x := range list {
		who := x.UserID
		if who == "" {
			who = "group " + x.Group
		}
		fmt.Fprintf(w, "%s\t%s\n", who, strings.Join(x.Roles, ", "))
	}
	return w.Flush()
}

// changeRole is "role grant" and "role revoke": ROLE USER, or ROLE --group NAME.
func (c *cli) changeRole(ctx context.Context, args []string, on bool) error {
	in, who := groupRequest{Role: args[0], Group: c.group, On: on}, ""
	switch {
	case len(args) == 2 && c.group == "":
		in.User, who = args[1], args[1]
	case len(args) == 1 && c.group != "":
		who = "the group " + c.group
	default:
		return &usageError{"say who: a user, or --group"}
	}
	done := fmt.Sprintf("%s has the role %s.", who, args[0])
	if !on {
		done = fmt.Sprintf("%s was taken from %s.", args[0], who)
	}
	return c.groupCall(ctx, "/v1/roles", in, strings.ToUpper(done[:1])+done[1:])
}

func runRoleGrant(ctx context.Context, c *cli, args []string) error {
	return c.changeRole(ctx, args, true)
}

func runRoleRevoke(ctx context.Context, c *cli, args []string) error {
	return c.changeRole(ctx, args, false)
}
