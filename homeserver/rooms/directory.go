package rooms

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"sort"
	"strconv"
	"strings"

	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

func (r *Rooms) putAlias(ctx context.Context, q *route.Request, in roomIDResponse) (route.Empty, error) {
	if err := q.NotSuspended(); err != nil {
		return route.Empty{}, err
	}
	alias := q.Param("alias")
	_, server, err := mx.ParseAlias(alias)
	if err != nil {
		return route.Empty{}, err
	}
	if server != r.o.ServerName {
		return route.Empty{}, mx.Errorf(mx.InvalidParam, "Aliases made here end in :%s.", r.o.ServerName)
	}
	if in.RoomID == "" {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "Name the room in room_id.")
	}
	if err := r.mayTake(alias, q); err != nil {
		return route.Empty{}, err
	}
	return route.Empty{}, r.db.Write(ctx, func(tx *store.Tx) error {
		nid, err := r.nid(tx, in.RoomID)
		if err != nil {
			return noRoom(err)
		}
		if ok, err := r.IsJoined(tx, in.RoomID, q.UserID); err != nil || !ok {
			if err == nil {
				err = errNotIn()
			}
			return err
		}
		err = insertAlias(tx, alias, nid, q.UserID)
		if err == errAliasTaken {
			return &mx.Error{Code: mx.RoomInUse, Status: 409, Msg: errAliasTaken.Msg}
		}
		return err
	})
}

// mayTake refuses an alias that an application service has to itself, and to a
// service those that it has no namespace for. Spec: as#server-admin-style-permissions
func (r *Rooms) mayTake(alias string, q *route.Request) error {
	if r.o.MayTakeAlias == nil {
		return nil
	}
	return r.o.MayTakeAlias(alias, q.Appservice)
}

type aliasResponse struct {
	RoomID  string   `json:"room_id"`
	Servers []string `json:"servers"`
}

func (r *Rooms) getAlias(ctx context.Context, q *route.Request) (out aliasResponse, err error) {
	alias := q.Param("alias")
	if _, _, err := mx.ParseAlias(alias); err != nil {
		return out, err
	}
	out.Servers = []string{r.o.ServerName}
	out.RoomID, err = r.resolve(ctx, alias)
	return out, err
}

// deleteAlias is for who made the alias and who may change the canonical alias. Where
// the room names it as one of its addresses, it is taken out of these, too, if the
// deleter may do so. Spec: cs#delete_matrixclientv3directoryroomroomalias
func (r *Rooms) deleteAlias(ctx context.Context, q *route.Request) (route.Empty, error) {
	if err := q.NotSuspended(); err != nil {
		return route.Empty{}, err
	}
	alias := q.Param("alias")
	var roomID string
	err := r.db.Write(ctx, func(tx *store.Tx) error {
		var creator string
		err := tx.QueryRow(`SELECT a.creator, r.room_id FROM room_aliases a JOIN rooms r ON r.nid = a.room WHERE a.alias = $1`, alias).Scan(&creator, &roomID)
		if errors.Is(err, store.ErrNotFound) {
			return mx.Errorf(mx.NotFound, "There is no alias %.80s.", alias)
		}
		if err != nil {
			return err
		}
		if !q.Admin {
			if err := r.mayTake(alias, q); err != nil {
				return err
			}
		}
		// A service has full control of its namespace.
		if creator != q.UserID && !q.Admin && q.Appservice == "" {
			ok, err := r.MaySendState(tx, roomID, q.UserID, mx.RoomCanonicalAlias)
			if err != nil {
				return err
			}
			if !ok {
				return mx.Errorf(mx.Forbidden, "Only who made the alias, or who may change the room's address, can delete it.")
			}
		}
		_, err = tx.Exec(`DELETE FROM room_aliases WHERE alias = $1`, alias)
		return err
	})
	if err == nil {
		err = r.unname(ctx, roomID, q.UserID, alias)
	}
	return route.Empty{}, err
}

// unname takes an alias that does not lead to the room any more out of its canonical
// alias, in the name of a user. Where the user may not, it stays.
func (r *Rooms) unname(ctx context.Context, roomID, userID, alias string) error {
	empty := ""
	err := r.change(ctx, roomID, func(b *batch) error {
		old, err := b.get(mx.RoomCanonicalAlias, "")
		if err != nil || old == nil {
			return err
		}
		content := map[string]json.RawMessage{}
		if json.Unmarshal(old.Content, &content) != nil {
			return nil
		}
		changed := false
		if pdu.FieldString(old.Content, "alias") == alias {
			delete(content, "alias")
			changed = true
		}
		if others, ok := pdu.Strings(content["alt_aliases"]); ok && slices.Contains(others, alias) {
			others = slices.DeleteFunc(others, func(a string) bool { return a == alias })
			delete(content, "alt_aliases")
			if len(others) > 0 {
				content["alt_aliases"], _ = json.Marshal(others)
			}
			changed = true
		}
		if !changed {
			return nil
		}
		c, err := json.Marshal(content)
		if err != nil {
			return err
		}
		_, err = b.add(NewEvent{Sender: userID, Type: mx.RoomCanonicalAlias, StateKey: &empty, Content: c})
		return err
	})
	var refusal *mx.Error
	if errors.As(err, &refusal) {
		return nil
	}
	return err
}

// lookupIn adapts the current state for eventauth.
func (r *Rooms) lookupIn(q store.Querier, roomID string, fail *error) eventauth.StateLookup {
	return func(typ, key string) *pdu.Event {
		e, err := r.State(q, roomID, typ, key)
		if err != nil {
			if !errors.Is(err, store.ErrNotFound) && *fail == nil {
				*fail = err
			}
			return nil
		}
		return e.Event
	}
}

// PowerLevels are a room's power levels now.
func (r *Rooms) PowerLevels(q store.Querier, roomID string) (*eventauth.PowerLevels, error) {
	v, err := r.Version(q, roomID)
	if err != nil {
		return nil, err
	}
	pl := eventauth.LevelsOf(v, r.lookupIn(q, roomID, &err))
	return pl, err
}

// MaySendState reports whether a user is joined and has the power to send state
// events of a type.
func (r *Rooms) MaySendState(q store.Querier, roomID, userID, typ string) (bool, error) {
	if ok, err := r.IsJoined(q, roomID, userID); err != nil || !ok {
		return false, err
	}
	pl, err := r.PowerLevels(q, roomID)
	if err != nil {
		return false, err
	}
	return pl.User(userID) >= pl.Event(typ, true), nil
}

// Aliases lists a room's local aliases. A room that is not there, or not any more, has
// none.
func (r *Rooms) Aliases(q store.Querier, roomID string) ([]string, error) {
	nid, err := r.nid(q, roomID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strs(q.Query(`SELECT alias FROM room_aliases WHERE room = $1 ORDER BY alias`, nid))
}

func (r *Rooms) roomAliases(ctx context.Context, q *route.Request) (any, error) {
	list := []string{}
	err := r.db.Read(ctx, func(s store.Querier) error {
		id := q.Param("roomID")
		in, err := r.IsJoined(s, id, q.UserID)
		if err != nil {
			return err
		}
		if !in && r.stateString(s, id, mx.RoomHistoryVisibility, "history_visibility") != mx.VisibilityWorldReadable {
			return errNotIn()
		}
		a, err := r.Aliases(s, id)
		list = append(list, a...)
		return err
	})
	return map[string]any{"aliases": list}, err
}

type listed struct {
	Visibility string `json:"visibility"`
}

// Listed reports whether a room is in the room directory. Errors: store.ErrNotFound.
func (r *Rooms) Listed(q store.Querier, roomID string) (public bool, err error) {
	err = q.QueryRow(`SELECT public FROM rooms WHERE room_id = $1`, roomID).Scan(&public)
	return public, err
}

func (r *Rooms) getListed(ctx context.Context, q *route.Request) (out listed, err error) {
	err = r.db.Read(ctx, func(s store.Querier) error {
		public, err := r.Listed(s, q.Param("roomID"))
		out.Visibility = "private"
		if public {
			out.Visibility = "public"
		}
		return noRoom(err)
	})
	return out, err
}

func (r *Rooms) putListed(ctx context.Context, q *route.Request, in listed) (route.Empty, error) {
	if err := q.NotSuspended(); err != nil {
		return route.Empty{}, err
	}
	if in.Visibility == "" {
		in.Visibility = "public"
	}
	if in.Visibility != "public" && in.Visibility != "private" {
		return route.Empty{}, mx.Errorf(mx.InvalidParam, "The visibility is public or private.")
	}
	return route.Empty{}, r.db.Write(ctx, func(tx *store.Tx) error {
		id := q.Param("roomID")
		if _, err := r.nid(tx, id); err != nil {
			return noRoom(err)
		}
		if ok, err := r.MaySendState(tx, id, q.UserID, mx.RoomCanonicalAlias); err != nil || !ok && !q.Admin {
			if err == nil {
				err = mx.Errorf(mx.Forbidden, "Listing a room takes the power to change its address.")
			}
			return err
		}
		_, err := tx.Exec(`UPDATE rooms SET public = $2 WHERE room_id = $1`, id, in.Visibility == "public")
		return err
	})
}

// Summary is what somebody may know of a room before joining it.
// Spec: cs#get_matrixclientv1room_summaryroomidoralias
type Summary struct {
	RoomID         string   `json:"room_id"`
	Name           string   `json:"name,omitempty"`
	Topic          string   `json:"topic,omitempty"`
	AvatarURL      string   `json:"avatar_url,omitempty"`
	CanonicalAlias string   `json:"canonical_alias,omitempty"`
	JoinedMembers  int      `json:"num_joined_members"`
	WorldReadable  bool     `json:"world_readable"`
	GuestCanJoin   bool     `json:"guest_can_join"`
	JoinRule       string   `json:"join_rule,omitempty"`
	RoomType       string   `json:"room_type,omitempty"`
	RoomVersion    string   `json:"room_version,omitempty"`
	Encryption     string   `json:"encryption,omitempty"`
	Allowed        []string `json:"allowed_room_ids,omitempty"`
	Membership     string   `json:"membership,omitempty"`
}

func (r *Rooms) stateString(q store.Querier, roomID, typ, field string) string {
	e, err := r.State(q, roomID, typ, "")
	if err != nil {
		return ""
	}
	return e.ContentString(field)
}

// SummaryOf sums a room up. Errors: store.ErrNotFound.
func (r *Rooms) SummaryOf(q store.Querier, roomID string) (s Summary, err error) {
	if _, err := r.nid(q, roomID); err != nil {
		return s, err
	}
	s.RoomID = roomID
	s.Name = r.stateString(q, roomID, mx.RoomName, "name")
	s.Topic = r.stateString(q, roomID, mx.RoomTopic, "topic")
	s.AvatarURL = r.stateString(q, roomID, mx.RoomAvatar, "url")
	s.CanonicalAlias = r.stateString(q, roomID, mx.RoomCanonicalAlias, "alias")
	s.WorldReadable = r.stateString(q, roomID, mx.RoomHistoryVisibility, "history_visibility") == mx.VisibilityWorldReadable
	s.GuestCanJoin = r.stateString(q, roomID, mx.RoomGuestAccess, "guest_access") == "can_join"
	s.Encryption = r.stateString(q, roomID, mx.RoomEncryption, "algorithm")
	s.JoinRule = mx.JoinInvite
	if e, err := r.State(q, roomID, mx.RoomJoinRules, ""); err == nil {
		s.JoinRule = e.ContentString("join_rule")
		if s.JoinRule == mx.JoinRestricted || s.JoinRule == mx.JoinKnockRestricted {
			var c mx.JoinRulesContent
			if json.Unmarshal(e.Content, &c) == nil {
				for _, a := range c.Allow {
					s.Allowed = append(s.Allowed, a.RoomID)
				}
			}
		}
	}
	if e, err := r.State(q, roomID, mx.RoomCreate, ""); err == nil {
		s.RoomType = e.ContentString("type")
		s.RoomVersion = string(e.Version)
	}
	s.JoinedMembers, err = r.MemberCount(q, roomID)
	return s, err
}

// mayPreview reports whether a user may see a room's summary.
func (r *Rooms) mayPreview(q store.Querier, s Summary, userID string) (bool, error) {
	if s.WorldReadable || s.JoinRule == mx.JoinPublic || s.JoinRule == mx.JoinKnock || s.JoinRule == mx.JoinKnockRestricted {
		return true, nil
	}
	if userID == "" {
		return false, nil
	}
	switch m, err := r.Membership(q, s.RoomID, userID); {
	case err != nil:
		return false, err
	case m == mx.Join || m == mx.Invite || m == mx.Knock:
		return true, nil
	}
	for _, id := range s.Allowed {
		if ok, err := r.IsJoined(q, id, userID); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func (r *Rooms) getSummary(ctx context.Context, q *route.Request) (s Summary, err error) {
	id, err := r.resolve(ctx, q.Param("roomID"))
	if err != nil {
		return s, err
	}
	err = r.db.Read(ctx, func(db store.Querier) error {
		if s, err = r.SummaryOf(db, id); err != nil {
			return noRoom(err)
		}
		ok, err := r.mayPreview(db, s, q.UserID)
		if err != nil {
			return err
		}
		if !ok {
			return errNoRoom
		}
		if q.UserID != "" {
			if s.Membership, err = r.Membership(db, id, q.UserID); s.Membership == "" {
				s.Membership = mx.Leave
			}
		}
		return err
	})
	return s, err
}

type publicRoomsRequest struct {
	Limit  int    `json:"limit"`
	Since  string `json:"since"`
	Server string `json:"server"`
	// Rooms of application services' networks. Spec: as#published-room-directories
	AllNetworks bool   `json:"include_all_networks"`
	Instance    string `json:"third_party_instance_id"`

	Filter struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
}

type publicRoomsResponse struct {
	Chunk []Summary `json:"chunk"`
	Next  string    `json:"next_batch,omitempty"`
	Prev  string    `json:"prev_batch,omitempty"`
	Total int       `json:"total_room_count_estimate"`
}

func (r *Rooms) getPublicRooms(ctx context.Context, q *route.Request) (publicRoomsResponse, error) {
	in := publicRoomsRequest{Since: q.Query("since"), Server: q.Query("server")}
	var err error
	if in.Limit, err = q.Int("limit", 0); err != nil {
		return publicRoomsResponse{}, err
	}
	return r.publicRooms(ctx, in)
}

func (r *Rooms) postPublicRooms(ctx context.Context, q *route.Request, in publicRoomsRequest) (publicRoomsResponse, error) {
	in.Server = q.Query("server")
	return r.publicRooms(ctx, in)
}

const maxPublicRooms = 100

// listedRooms are the rooms of the directories that a request means.
func (r *Rooms) listedRooms(q store.Querier, in publicRoomsRequest) (ids []string, err error) {
	if in.Instance == "" {
		if ids, err = strs(q.Query(`SELECT room_id FROM rooms WHERE public = 1`)); err != nil || !in.AllNetworks {
			return ids, err
		}
	}
	if r.o.Listed == nil {
		return ids, nil
	}
	list, err := r.o.Listed(q, in.Instance)
	if err != nil {
		return nil, err
	}
	for _, id := range list {
		ok, err := r.Known(q, id)
		if err != nil {
			return nil, err
		}
		if ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// publicRooms lists the rooms of the directory, the largest first. Its tokens are
// the place in that order. Spec: cs#get_matrixclientv3publicrooms
func (r *Rooms) publicRooms(ctx context.Context, in publicRoomsRequest) (out publicRoomsResponse, err error) {
	out.Chunk = []Summary{}
	if in.Server != "" && in.Server != r.o.ServerName {
		return out, mx.Errorf(mx.NotFound, "The directory of %.80s cannot be read from here.", in.Server)
	}
	if in.Instance != "" && in.AllNetworks {
		return out, mx.Errorf(mx.InvalidParam, "Ask either for one network (third_party_instance_id) or for all (include_all_networks).")
	}
	if in.Limit < 0 {
		return out, mx.Errorf(mx.InvalidParam, "The limit must be a number of 0 or more.")
	}
	if in.Limit == 0 || in.Limit > maxPublicRooms {
		in.Limit = maxPublicRooms
	}
	offset := 0
	if in.Since != "" {
		b, err := base64.RawURLEncoding.DecodeString(in.Since)
		if err == nil {
			offset, err = strconv.Atoi(string(b))
		}
		if err != nil || offset < 0 {
			return out, mx.Errorf(mx.InvalidParam, "The since token is none that this server gave.")
		}
	}
	var all []Summary
	err = r.db.Read(ctx, func(q store.Querier) error {
		ids, err := r.listedRooms(q, in)
		if err != nil {
			return err
		}
		term := strings.ToLower(in.Filter.Term)
		for _, id := range ids {
			s, err := r.SummaryOf(q, id)
			if err != nil {
				return err
			}
			if s.JoinedMembers == 0 {
				continue
			}
			if term != "" && !strings.Contains(strings.ToLower(s.Name), term) && !strings.Contains(strings.ToLower(s.Topic), term) &&
				!strings.Contains(strings.ToLower(s.CanonicalAlias), term) {
				continue
			}
			if in.Filter.Types != nil && !typeListed(in.Filter.Types, s.RoomType) {
				continue
			}
			s.Allowed, s.Membership = nil, ""
			all = append(all, s)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].JoinedMembers != all[j].JoinedMembers {
			return all[i].JoinedMembers > all[j].JoinedMembers
		}
		return all[i].RoomID < all[j].RoomID
	})
	out.Total = len(all)
	token := func(n int) string { return base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(n))) }
	if offset < len(all) {
		out.Chunk = all[offset:min(len(all), offset+in.Limit)]
	}
	if offset+in.Limit < len(all) {
		out.Next = token(offset + in.Limit)
	}
	if offset > 0 {
		out.Prev = token(max(0, offset-in.Limit))
	}
	return out, nil
}

func typeListed(types []*string, roomType string) bool {
	for _, t := range types {
		if t == nil && roomType == "" || t != nil && *t == roomType && roomType != "" {
			return true
		}
	}
	return false
}

// getMutual lists the rooms that the caller shares with another user.
// Spec: cs#get_matrixclientv1mutual_rooms
func (r *Rooms) getMutual(ctx context.Context, q *route.Request) (any, error) {
	other := q.Query("user_id")
	if other == "" || other == q.UserID || !mx.ValidUserID(other) {
		return nil, mx.Errorf(mx.InvalidParam, "Name another user in user_id.")
	}
	from := q.Query("from")
	if from != "" && !mx.ValidRoomID(from) {
		return nil, mx.Errorf(mx.InvalidParam, "The from token is none that this server gave.")
	}
	all := []string{}
	err := r.db.Read(ctx, func(s store.Querier) error {
		mine, err := r.JoinedRooms(s, q.UserID)
		if err != nil {
			return err
		}
		for _, id := range mine {
			ok, err := r.IsJoined(s, id, other)
			if err != nil {
				return err
			}
			if ok {
				all = append(all, id)
			}
		}
		return nil
	})
	sort.Strings(all)
	// A token is the last room of the page before, which may have been left meanwhile.
	list := all[sort.Search(len(all), func(i int) bool { return all[i] > from }):]
	out := map[string]any{"count": len(all)}
	if len(list) > maxMutual {
		list = list[:maxMutual]
		out["next_batch"] = list[maxMutual-1]
	}
	out["joined"] = list
	return out, err
}

// maxMutual is the most rooms in one answer about rooms in common.
const maxMutual = 100
