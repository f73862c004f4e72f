package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// listed is an account in the list of accounts.
type listed struct {
	Name         string  `json:"name"`
	IsGuest      bool    `json:"is_guest"`
	Admin        bool    `json:"admin"`
	UserType     *string `json:"user_type"`
	Deactivated  bool    `json:"deactivated"`
	Erased       bool    `json:"erased"`
	ShadowBanned bool    `json:"shadow_banned"`
	DisplayName  *string `json:"displayname"`
	AvatarURL    *string `json:"avatar_url"`
	CreatedTS    int64   `json:"creation_ts"` // ms
	SeenTS       *int64  `json:"last_seen_ts"`
	Locked       bool    `json:"locked"`
	Suspended    bool    `json:"suspended"`
	Approved     bool    `json:"approved"`
}

// details is one account.
type details struct {
	listed
	Threepids     []threepid `json:"threepids"`
	ExternalIDs   []any      `json:"external_ids"` // accounts of other providers: none yet
	AppserviceID  *string    `json:"appservice_id"`
	ConsentNotice *string    `json:"consent_server_notice_sent"`
	Consent       *string    `json:"consent_version"`
	ConsentTS     *int64     `json:"consent_ts"`
}

type threepid struct {
	Medium    string `json:"medium"`
	Address   string `json:"address"`
	Added     int64  `json:"added_at"`
	Validated int64  `json:"validated_at"`
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (s *Service) toListed(u User, p userdata.Profile, userType string, seen int64) listed {
	out := listed{Name: u.UserID, Admin: u.Admin, UserType: text(userType), Deactivated: u.Deactivated, DisplayName: text(p.DisplayName),
		AvatarURL: text(p.AvatarURL), CreatedTS: u.Created.UnixMilli(), Locked: u.Locked, Suspended: u.Suspended, Approved: true}
	out.Erased = s.o.Timeline.Erased(u.UserID)
	if !u.LastSeen.IsZero() {
		seen = max(seen, u.LastSeen.UnixMilli())
	}
	if seen > 0 {
		out.SeenTS = &seen
	}
	return out
}

type usersResponse struct {
	Users []listed `json:"users"`
	Next  string   `json:"next_token,omitempty"`
	Total int      `json:"total"`
}

// orders of the list of accounts.
var userOrders = map[string]func(a, b listed) int{
	"name":          func(a, b listed) int { return 0 },
	"is_guest":      func(a, b listed) int { return 0 },
	"admin":         func(a, b listed) int { return flags(a.Admin, b.Admin) },
	"user_type":     func(a, b listed) int { return texts(a.UserType, b.UserType) },
	"deactivated":   func(a, b listed) int { return flags(a.Deactivated, b.Deactivated) },
	"shadow_banned": func(a, b listed) int { return 0 },
	"erased":        func(a, b listed) int { return flags(a.Erased, b.Erased) },
	"locked":        func(a, b listed) int { return flags(a.Locked, b.Locked) },
	"suspended":     func(a, b listed) int { return flags(a.Suspended, b.Suspended) },
	"displayname":   func(a, b listed) int { return texts(a.DisplayName, b.DisplayName) },
	"avatar_url":    func(a, b listed) int { return texts(a.AvatarURL, b.AvatarURL) },
	"creation_ts":   func(a, b listed) int { return cmp.Compare(a.CreatedTS, b.CreatedTS) },
	"last_seen_ts":  func(a, b listed) int { return cmp.Compare(number(a.SeenTS), number(b.SeenTS)) },
}

func flags(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func texts(a, b *string) int {
	var x, y string
	if a != nil {
		x = strings.ToLower(*a)
	}
	if b != nil {
		y = strings.ToLower(*b)
	}
	return cmp.Compare(x, y)
}

func number(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

// listV2 leaves closed accounts out unless they are asked for; listV3 takes
// deactivated as a filter.
func (s *Service) listV2(ctx context.Context, r *route.Request) (usersResponse, error) {
	q := &query{r: r}
	if q.flagOr("deactivated", false) {
		return s.listUsers(ctx, q, nil)
	}
	no := false
	return s.listUsers(ctx, q, &no)
}

func (s *Service) listV3(ctx context.Context, r *route.Request) (usersResponse, error) {
	q := &query{r: r}
	return s.listUsers(ctx, q, q.flag("deactivated"))
}

func (s *Service) listUsers(ctx context.Context, q *query, deactivated *bool) (out usersResponse, err error) {
	from, limit := q.page()
	admins, locked := q.flag("admins"), q.flagOr("locked", false)
	suspended, banned := q.flag("suspended"), q.flag("shadow_banned") // nobody is the latter
	q.flag("guests")                                                  // there are none
	back := q.oneOf("dir", "f", "b") == "b"
	by := q.oneOf("order_by", "name", "is_guest", "admin", "user_type", "deactivated", "shadow_banned", "erased", "locked", "suspended", "displayname",
		"avatar_url", "creation_ts", "last_seen_ts")
	name, id := strings.ToLower(q.r.Query("name")), strings.ToLower(q.r.Query("user_id"))
	without := q.r.QueryValues()["not_user_type"]
	if q.err != nil {
		return out, q.err
	}
	all, err := s.everybody(ctx)
	if err != nil {
		return out, err
	}
	all = slices.DeleteFunc(all, func(u listed) bool {
		local, _, _ := strings.Cut(strings.TrimPrefix(u.Name, "@"), ":")
		shown := ""
		if u.DisplayName != nil {
			shown = strings.ToLower(*u.DisplayName)
		}
		typ := ""
		if u.UserType != nil {
			typ = *u.UserType
		}
		switch {
		case deactivated != nil && u.Deactivated != *deactivated,
			admins != nil && u.Admin != *admins,
			suspended != nil && u.Suspended != *suspended,
			banned != nil && *banned,
			u.Locked && !locked && !u.Deactivated,
			name != "" && !strings.Contains(local, name) && !strings.Contains(shown, name),
			name == "" && id != "" && !strings.Contains(u.Name, id),
			slices.Contains(without, typ):
			return true
		}
		return false
	})
	slices.SortFunc(all, func(a, b listed) int {
		c := userOrders[by](a, b)
		if by == "name" {
			c = cmp.Compare(a.Name, b.Name)
		}
		if back {
			c = -c
		}
		return cmp.Or(c, cmp.Compare(a.Name, b.Name))
	})
	part, next := cut(all, from, limit)
	out = usersResponse{Users: part, Total: len(all)}
	if next > 0 {
		out.Next = strconv.Itoa(next)
	}
	if out.Users == nil {
		out.Users = []listed{}
	}
	return out, nil
}

// searchUsers is the search of older tools. What a password hashes to is nobody's business.
func (s *Service) searchUsers(ctx context.Context, r *route.Request) (any, error) {
	if _, err := s.local(ctx, r.Param("userID")); err != nil {
		return nil, err
	}
	term := strings.ToLower(r.Query("term"))
	if term == "" {
		return nil, mx.Errorf(mx.MissingParam, "Say in term what to look for.")
	}
	all, err := s.everybody(ctx)
	if err != nil {
		return nil, err
	}
	type found struct {
		Name         string  `json:"name"`
		PasswordHash *string `json:"password_hash"`
		IsGuest      bool    `json:"is_guest"`
		Admin        bool    `json:"admin"`
		UserType     *string `json:"user_type"`
	}
	out := []found{}
	for _, u := range all {
		if strings.Contains(strings.ToLower(u.Name), term) {
			out = append(out, found{Name: u.Name, Admin: u.Admin, UserType: u.UserType})
		}
	}
	slices.SortFunc(out, func(a, b found) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// everybody is all accounts with what the homeserver knows of them.
func (s *Service) everybody(ctx context.Context) ([]listed, error) {
	users, err := s.o.Accounts.Users(ctx)
	if err != nil {
		return nil, err
	}
	profiles := map[string]userdata.Profile{}
	var seen map[string]int64
	var types map[string]string
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		if err = s.o.Userdata.Profiles(q, func(id string, p userdata.Profile) { profiles[id] = p }); err != nil {
			return err
		}
		if seen, err = s.o.Devices.LastSeen(q); err != nil {
			return err
		}
		types, err = listTypes(q)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]listed, 0, len(users))
	for _, u := range users {
		out = append(out, s.toListed(u, profiles[u.UserID], types[u.UserID], seen[u.UserID]))
	}
	return out, nil
}

func (s *Service) getUser(ctx context.Context, r *route.Request) (details, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return details{}, err
	}
	return s.details(ctx, u)
}

func (s *Service) details(ctx context.Context, u User) (out details, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		p, err := userdata.LoadProfile(q, u.UserID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		note, err := loadNote(q, u.UserID)
		if err != nil {
			return err
		}
		list, err := s.o.Devices.List(q, u.UserID)
		if err != nil {
			return err
		}
		var seen int64
		for _, d := range list {
			seen = max(seen, d.SeenTS)
		}
		out.listed = s.toListed(u, p, note.userType, seen)
		return nil
	})
	// The list has milliseconds, the details of one account seconds: tools know it so.
	out.CreatedTS = u.Created.Unix()
	out.Threepids, out.ExternalIDs = []threepid{}, []any{}
	if err != nil {
		return out, err
	}
	list, err := s.o.Accounts.Emails(ctx, u.UserID)
	for _, a := range list {
		out.Threepids = append(out.Threepids, threepid{"email", a.Address, a.Added.UnixMilli(), a.Validated.UnixMilli()})
	}
	return out, err
}

type putUserRequest struct {
	Password      *string           `json:"password"`
	LogoutDevices *bool             `json:"logout_devices"`
	DisplayName   *string           `json:"displayname"`
	AvatarURL     *string           `json:"avatar_url"`
	Admin         *bool             `json:"admin"`
	Deactivated   *bool             `json:"deactivated"`
	Locked        *bool             `json:"locked"`
	Suspended     *bool             `json:"suspended"`
	UserType      json.RawMessage   `json:"user_type"`
	Threepids     []threepid        `json:"threepids"`
	ExternalIDs   []json.RawMessage `json:"external_ids"`
}

// userType reads the type of an account: null for none. set: it was given.
func (in putUserRequest) userType() (v string, set bool, err error) {
	if len(in.UserType) == 0 {
		return "", false, nil
	}
	var p *string
	if json.Unmarshal(in.UserType, &p) != nil || p != nil && *p != "" && *p != "bot" && *p != "support" {
		return "", false, mx.Errorf(mx.InvalidParam, `user_type must be "bot", "support" or null.`)
	}
	if p != nil {
		v = *p
	}
	return v, true, nil
}

// putUser makes an account or changes one: only what the body has. What would be
// refused is looked at first, so that nothing is done by half.
func (s *Service) putUser(ctx context.Context, r *route.Request, in putUserRequest) (any, error) {
	userType, setType, err := in.userType()
	if err != nil {
		return nil, err
	}
	switch {
	case len(in.ExternalIDs) > 0:
		return nil, mx.Errorf(mx.InvalidParam, "This server knows accounts of no other sign-in service: external_ids must be empty.")
	case in.AvatarURL != nil && *in.AvatarURL != "" && !strings.HasPrefix(*in.AvatarURL, "mxc://"):
		return nil, mx.Errorf(mx.InvalidParam, "avatar_url must be an mxc:// URI.")
	case in.Password != nil && (*in.Password == "" || len(*in.Password) > 512):
		return nil, mx.Errorf(mx.InvalidParam, "The password must have 1 to 512 bytes.")
	}
	userID := r.Param("userID")
	u, err := s.local(ctx, userID)
	var not *mx.Error
	created := errors.As(err, &not) && not.Code == mx.NotFound
	if err != nil && !created {
		return nil, err
	}
	if err := s.checkThreepids(ctx, userID, created, in.Threepids); err != nil {
		return nil, err
	}
	is := func(p *bool) bool { return p != nil && *p }
	if created {
		n := NewUser{Localpart: localpart(userID), Admin: is(in.Admin)}
		n.DisplayName = n.Localpart
		if in.DisplayName != nil {
			n.DisplayName = *in.DisplayName
		}
		if in.Password != nil {
			n.Password = *in.Password
		}
		if u, err = s.o.Accounts.Create(ctx, n); err != nil {
			return nil, err
		}
	} else {
		self := u.UserID == r.UserID
		switch {
		case u.Deactivated && in.Deactivated != nil && !*in.Deactivated:
			return nil, mx.Errorf(mx.InvalidParam, "A closed account stays closed. Make a new one.")
		case self && (in.Admin != nil && !*in.Admin || is(in.Locked) || is(in.Suspended) || is(in.Deactivated)):
			return nil, mx.Errorf(mx.Forbidden, "You cannot take administration away from yourself, or lock, suspend or close your own account here.")
		case u.Deactivated && in.Password != nil:
			return nil, mx.Errorf(mx.InvalidParam, "The account was closed: it gets no password.")
		}
		if u.Deactivated { // what tools send along does nothing
			d, err := s.details(ctx, u)
			return d, err
		}
		if err := s.o.Userdata.MaySet(ctx, u.UserID, in.DisplayName, in.AvatarURL); err != nil {
			return nil, err
		}
		if in.Password != nil {
			if err := s.o.Accounts.SetPassword(ctx, u.UserID, *in.Password, in.LogoutDevices == nil || *in.LogoutDevices); err != nil {
				return nil, err
			}
		}
		if in.DisplayName != nil || in.AvatarURL != nil {
			if err := s.o.Userdata.SetProfile(ctx, u.UserID, in.DisplayName, in.AvatarURL); err != nil {
				return nil, err
			}
		}
		if in.Admin != nil && *in.Admin != u.Admin {
			if err := s.o.Accounts.SetAdmin(ctx, u.UserID, *in.Admin); err != nil {
				return nil, err
			}
		}
	}
	if created && in.AvatarURL != nil {
		if err := s.o.Userdata.SetProfile(ctx, u.UserID, nil, in.AvatarURL); err != nil {
			return nil, err
		}
	}
	if setType {
		if err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return storeType(tx, u.UserID, userType) }); err != nil {
			return nil, err
		}
	}
	if in.Locked != nil && *in.Locked != u.Locked {
		if err := s.o.Accounts.SetLocked(ctx, u.UserID, *in.Locked); err != nil {
			return nil, err
		}
	}
	if in.Suspended != nil && *in.Suspended != u.Suspended {
		if err := s.o.Accounts.SetSuspended(ctx, u.UserID, *in.Suspended); err != nil {
			return nil, err
		}
	}
	if is(in.Deactivated) {
		if err := s.o.Accounts.Deactivate(ctx, u.UserID); err != nil {
			return nil, err
		}
	}
	if u, err = s.o.Accounts.User(ctx, u.UserID); err != nil {
		return nil, err
	}
	d, err := s.details(ctx, u)
	if err != nil || !created {
		return d, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(d)
	}), nil
}

// checkThreepids refuses other addresses than those that the user has proved: only
// their owners can add and remove them. Tools send back what they were given.
func (s *Service) checkThreepids(ctx context.Context, userID string, created bool, list []threepid) error {
	var has []Address
	if list != nil && !created {
		var err error
		if has, err = s.o.Accounts.Emails(ctx, userID); err != nil {
			return err
		}
	}
	same := list == nil || len(list) == len(has)
	for _, t := range list {
		same = same && t.Medium == "email" && slices.ContainsFunc(has, func(a Address) bool { return a.Address == t.Address })
	}
	if !same {
		return mx.Errorf(mx.InvalidParam, "Addresses are added and removed by their owner, who proves that they are theirs. Leave threepids out.")
	}
	return nil
}

func localpart(userID string) string {
	l, _, _ := strings.Cut(strings.TrimPrefix(userID, "@"), ":")
	return l
}
