package userdata

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Limits of account data.
const (
	maxDataBytes = 256 << 10
	maxTypeBytes = 255
	maxData      = 20000 // pieces of one user
	maxTagBytes  = 255
)

// Data is one piece of account data, as sync gives it.
type Data struct {
	Type    string `json:"type"`
	Content mx.Raw `json:"content"`
}

func (s *Service) accountDataRoutes() []route.Route {
	const v3, r0 = "/_matrix/client/v3/user/{userID}", "/_matrix/client/r0/user/{userID}"
	rt := func(op, method, path string, h route.Handler) route.Route {
		return route.Route{Op: op, Pattern: method + " " + v3 + path, Aliases: []string{r0 + path}, Auth: route.User, Limit: route.Reads, MaxBody: maxDataBytes, Handle: h}
	}
	const global, room, tags = "/account_data/{type}", "/rooms/{roomID}/account_data/{type}", "/rooms/{roomID}/tags"
	return []route.Route{
		rt("setAccountData", "PUT", global, s.putData),
		rt("getAccountData", "GET", global, route.Get(s.getData)),
		rt("setAccountDataPerRoom", "PUT", room, s.putData),
		rt("getAccountDataPerRoom", "GET", room, route.Get(s.getData)),
		rt("getRoomTags", "GET", tags, route.Get(s.getTags)),
		rt("setRoomTag", "PUT", tags+"/{tag}", route.JSON(s.putTag)),
		rt("deleteRoomTag", "DELETE", tags+"/{tag}", route.Get(s.deleteTag)),
	}
}

// AccountDataSince gives what changed in (from, to]; from 0 gives all there is.
// m.push_rules is among the global data.
func (s *Service) AccountDataSince(q store.Querier, userID string, from, to int64) (global []Data, rooms map[string][]Data, err error) {
	global, rooms, err = listData(q, userID, from, to)
	if err != nil {
		return nil, nil, err
	}
	pos, err := loadRulesPos(q, userID)
	if err != nil && err != store.ErrNotFound {
		return nil, nil, err
	}
	if from == 0 || pos > from && pos <= to {
		u, err := s.userRules(q, userID)
		if err != nil {
			return nil, nil, err
		}
		global = append(global, Data{mx.PushRules, u.content})
	}
	return global, rooms, nil
}

// AccountData gives one piece; roomID "" for global. Errors: store.ErrNotFound.
func (s *Service) AccountData(q store.Querier, userID, roomID, typ string) (mx.Raw, error) {
	if typ == mx.PushRules && roomID == "" {
		u, err := s.userRules(q, userID)
		if err != nil {
			return nil, err
		}
		return u.content, nil
	}
	return loadData(q, userID, roomID, typ)
}

// SetData writes a piece of account data; roomID "" for global. content must be a
// JSON object.
func (s *Service) SetData(tx *store.Tx, userID, roomID, typ string, content []byte) error {
	fresh, err := upsertData(tx, userID, roomID, typ, content, tx.NextPos())
	if err != nil {
		return err
	}
	if fresh {
		n, err := countData(tx, userID)
		if err != nil {
			return err
		}
		if n > maxData {
			return mx.Errorf(mx.TooLarge, "A user has at most %d pieces of account data.", maxData)
		}
	}
	if typ == mx.IgnoredUserList && roomID == "" {
		tx.AfterCommit(func() { cachePut(s, s.ignored, userID, parseIgnored(content), true) })
	}
	tx.Touch(notify.User, userID)
	return nil
}

// SetRoomData is SetData for a room.
func (s *Service) SetRoomData(tx *store.Tx, userID, roomID, typ string, content []byte) error {
	return s.SetData(tx, userID, roomID, typ, content)
}

// InvitesBlocked reports whether a user takes no invitations
// (m.invite_permission_config). Spec: cs#invite-permission
func (s *Service) InvitesBlocked(q store.Querier, userID string) (bool, error) {
	raw, err := loadData(q, userID, "", mx.InvitePermission)
	if err == store.ErrNotFound {
		return false, nil
	}
	return err == nil && pdu.FieldString(raw, "default_action") == "block", err
}

// Ignored gives the users that userID ignores (m.ignored_user_list). The result
// must not be changed.
func (s *Service) Ignored(q store.Querier, userID string) (map[string]bool, error) {
	if m, ok := cacheGet(s, s.ignored, userID); ok {
		return m, nil
	}
	raw, err := loadData(q, userID, "", mx.IgnoredUserList)
	if err != nil && err != store.ErrNotFound {
		return nil, err
	}
	return cachePut(s, s.ignored, userID, parseIgnored(raw), false), nil
}

// parseIgnored forgives what is no such list: it then ignores nobody.
func parseIgnored(raw []byte) map[string]bool {
	var c struct {
		Users map[string]mx.Raw `json:"ignored_users"`
	}
	if json.Unmarshal(raw, &c) != nil || len(c.Users) == 0 {
		return nil
	}
	out := make(map[string]bool, len(c.Users))
	for u := range c.Users {
		out[u] = true
	}
	return out
}

// target checks whose and which data a request speaks of.
func target(r *route.Request) (roomID, typ string, err error) {
	if err := own(r); err != nil {
		return "", "", err
	}
	roomID, typ = r.Param("roomID"), r.Param("type")
	if roomID != "" && !mx.ValidRoomID(roomID) {
		return "", "", mx.Errorf(mx.InvalidParam, "%.80q is not a room ID.", roomID)
	}
	if len(typ) > maxTypeBytes {
		return "", "", mx.Errorf(mx.InvalidParam, "A type has at most %d bytes.", maxTypeBytes)
	}
	return roomID, typ, nil
}

// putData answers both account data endpoints.
// Spec: cs#put_matrixclientv3useruseridaccount_datatype
func (s *Service) putData(ctx context.Context, r *route.Request) (any, error) {
	roomID, typ, err := target(r)
	if err != nil {
		return nil, err
	}
	if typ == mx.PushRules || typ == mx.FullyRead {
		return nil, &mx.Error{Code: mx.BadJSON, Status: http.StatusMethodNotAllowed, Msg: typ + " is set through its own endpoint, not as account data."}
	}
	content, err := object(r.RawBody())
	if err != nil {
		return nil, err
	}
	return route.Empty{}, s.o.DB.Write(ctx, func(tx *store.Tx) error { return s.SetData(tx, r.UserID, roomID, typ, content) })
}

// object is a JSON object without the spaces around it.
func object(b []byte) ([]byte, error) {
	b = bytes.TrimSpace(b)
	if !json.Valid(b) {
		return nil, mx.Errorf(mx.NotJSON, "The request is not valid JSON.")
	}
	if b[0] != '{' {
		return nil, mx.Errorf(mx.BadJSON, "The content must be a JSON object.")
	}
	var out bytes.Buffer
	err := json.Compact(&out, b)
	return out.Bytes(), err
}

func (s *Service) getData(ctx context.Context, r *route.Request) (out mx.Raw, err error) {
	roomID, typ, err := target(r)
	if err != nil {
		return nil, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		out, err = s.AccountData(q, r.UserID, roomID, typ)
		return err
	})
	if err == store.ErrNotFound {
		err = mx.Errorf(mx.NotFound, "There is no account data of this type.")
	}
	return out, err
}

// tagContent is the content of m.tag.
type tagContent struct {
	Tags map[string]mx.Raw `json:"tags"`
}

func loadTags(q store.Querier, userID, roomID string) (c tagContent, err error) {
	raw, err := loadData(q, userID, roomID, mx.Tag)
	if err == nil {
		_ = json.Unmarshal(raw, &c) // a client may have put anything there
	}
	if err == store.ErrNotFound {
		err = nil
	}
	if c.Tags == nil {
		c.Tags = map[string]mx.Raw{}
	}
	return c, err
}

// HasTag reports whether a user's room has a tag.
func (s *Service) HasTag(q store.Querier, userID, roomID, tag string) (bool, error) {
	c, err := loadTags(q, userID, roomID)
	_, has := c.Tags[tag]
	return has, err
}

// AddTag puts a tag on a user's room, from within the server.
func (s *Service) AddTag(tx *store.Tx, userID, roomID, tag string) error {
	c, err := loadTags(tx, userID, roomID)
	if err != nil {
		return err
	}
	c.Tags[tag] = mx.Raw(`{}`)
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return s.SetData(tx, userID, roomID, mx.Tag, raw)
}

func (s *Service) getTags(ctx context.Context, r *route.Request) (out tagContent, err error) {
	roomID, _, err := target(r)
	if err != nil {
		return out, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		out, err = loadTags(q, r.UserID, roomID)
		return err
	})
	return out, err
}

func (s *Service) putTag(ctx context.Context, r *route.Request, in map[string]mx.Raw) (route.Empty, error) {
	if v, ok := in["order"]; ok {
		var order float64
		if err := json.Unmarshal(v, &order); err != nil || string(v) == "null" {
			return route.Empty{}, mx.Errorf(mx.BadJSON, "The order of a tag must be a number.")
		}
	}
	if in == nil {
		in = map[string]mx.Raw{}
	}
	content, err := json.Marshal(in)
	if err != nil {
		return route.Empty{}, err
	}
	return route.Empty{}, s.changeTags(ctx, r, func(tags map[string]mx.Raw) { tags[r.Param("tag")] = content })
}

func (s *Service) deleteTag(ctx context.Context, r *route.Request) (route.Empty, error) {
	return route.Empty{}, s.changeTags(ctx, r, func(tags map[string]mx.Raw) { delete(tags, r.Param("tag")) })
}

func (s *Service) changeTags(ctx context.Context, r *route.Request, change func(tags map[string]mx.Raw)) error {
	roomID, _, err := target(r)
	if err != nil {
		return err
	}
	if len(r.Param("tag")) > maxTagBytes {
		return mx.Errorf(mx.InvalidParam, "A tag has at most %d bytes.", maxTagBytes)
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		c, err := loadTags(tx, r.UserID, roomID)
		if err != nil {
			return err
		}
		change(c.Tags)
		raw, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if len(raw) > maxDataBytes {
			return mx.Errorf(mx.TooLarge, "The room has too many tags.")
		}
		return s.SetData(tx, r.UserID, roomID, mx.Tag, raw)
	})
}
