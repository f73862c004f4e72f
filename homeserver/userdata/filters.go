package userdata

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const (
	maxFilterBytes = 64 << 10
	maxFilters     = 1000 // of one user
)

func (s *Service) filterRoutes() []route.Route {
	const v3, r0 = "/_matrix/client/v3/user/{userID}/filter", "/_matrix/client/r0/user/{userID}/filter"
	return []route.Route{
		{Op: "defineFilter", Pattern: "POST " + v3, Aliases: []string{r0}, Auth: route.User, Limit: route.Reads, MaxBody: maxFilterBytes, Handle: s.postFilter},
		{Op: "getFilter", Pattern: "GET " + v3 + "/{filterID}", Aliases: []string{r0 + "/{filterID}"}, Auth: route.User, Limit: route.Reads, Handle: route.Get(s.getFilter)},
	}
}

// Filter gives a stored filter. Errors: store.ErrNotFound.
func Filter(q store.Querier, userID, filterID string) (mx.Raw, error) {
	return loadFilter(q, userID, filterID)
}

// CheckFilter refuses what is no filter: fields of the wrong type, and IDs that are
// none, which would never match. Fields that are not known pass. Errors: *mx.Error. Spec: cs#filtering
func CheckFilter(raw []byte) error {
	type events struct {
		Limit      *int64   `json:"limit"`
		Types      []string `json:"types"`
		NotTypes   []string `json:"not_types"`
		Senders    []string `json:"senders"`
		NotSenders []string `json:"not_senders"`
	}
	type roomEvents struct {
		events
		Rooms       []string `json:"rooms"`
		NotRooms    []string `json:"not_rooms"`
		Lazy        bool     `json:"lazy_load_members"`
		Redundant   bool     `json:"include_redundant_members"`
		Threads     bool     `json:"unread_thread_notifications"`
		ContainsURL *bool    `json:"contains_url"`
	}
	var f struct {
		Fields      []string `json:"event_fields"`
		Format      string   `json:"event_format"`
		Presence    events   `json:"presence"`
		AccountData events   `json:"account_data"`
		Room        struct {
			Rooms        []string   `json:"rooms"`
			NotRooms     []string   `json:"not_rooms"`
			IncludeLeave bool       `json:"include_leave"`
			Ephemeral    roomEvents `json:"ephemeral"`
			State        roomEvents `json:"state"`
			Timeline     roomEvents `json:"timeline"`
			AccountData  roomEvents `json:"account_data"`
		} `json:"room"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return mx.Errorf(mx.BadJSON, "This is not a filter: %v.", err)
	}
	if f.Format != "" && f.Format != "client" && f.Format != "federation" {
		return mx.Errorf(mx.BadJSON, "The event_format of a filter is client or federation.")
	}
	for _, l := range []*int64{f.Presence.Limit, f.AccountData.Limit, f.Room.Ephemeral.Limit, f.Room.State.Limit, f.Room.Timeline.Limit, f.Room.AccountData.Limit} {
		if l != nil && *l < 0 {
			return mx.Errorf(mx.BadJSON, "The limit of a filter is not negative.")
		}
	}
	lists := []roomEvents{{events: f.Presence}, {events: f.AccountData}, {Rooms: f.Room.Rooms, NotRooms: f.Room.NotRooms},
		f.Room.Ephemeral, f.Room.State, f.Room.Timeline, f.Room.AccountData}
	for _, l := range lists {
		for _, id := range slices.Concat(l.Rooms, l.NotRooms) {
			if !mx.ValidRoomID(id) {
				return mx.Errorf(mx.BadJSON, "%.60q in the filter is not a room ID.", id)
			}
		}
		for _, id := range slices.Concat(l.Senders, l.NotSenders) {
			if !mx.ValidUserID(id) {
				return mx.Errorf(mx.BadJSON, "%.60q in the filter is not a user ID.", id)
			}
		}
	}
	return nil
}

// filterID depends on the content only, so that each client start does not add
// another filter. It never begins with "{", which would be an inline filter.
func filterID(filter []byte) string {
	form, err := pdu.Canonical(filter)
	if err != nil { // numbers that canonical JSON does not know
		form = filter
	}
	sum := sha256.Sum256(form)
	return "f" + base64.RawURLEncoding.EncodeToString(sum[:12])
}

func (s *Service) postFilter(ctx context.Context, r *route.Request) (any, error) {
	if err := own(r); err != nil {
		return nil, err
	}
	body := r.RawBody()
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	filter, err := object(body)
	if err != nil {
		return nil, err
	}
	if err := CheckFilter(filter); err != nil {
		return nil, err
	}
	id := filterID(filter)
	known := false
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		_, err := loadFilter(q, r.UserID, id)
		known = err == nil
		if err == store.ErrNotFound {
			err = nil
		}
		return err
	})
	if err == nil && !known {
		err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
			n, err := countFilters(tx, r.UserID)
			if err != nil {
				return err
			}
			if n >= maxFilters {
				return mx.Errorf(mx.TooLarge, "A user has at most %d filters. Use one of those again, or send it inline.", maxFilters)
			}
			return insertFilter(tx, r.UserID, id, filter)
		})
	}
	if err != nil {
		return nil, err
	}
	return map[string]string{"filter_id": id}, nil
}

func (s *Service) getFilter(ctx context.Context, r *route.Request) (out mx.Raw, err error) {
	if err := own(r); err != nil {
		return nil, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		out, err = loadFilter(q, r.UserID, r.Param("filterID"))
		return err
	})
	if err == store.ErrNotFound {
		err = mx.Errorf(mx.NotFound, "There is no filter with this ID.")
	}
	return out, err
}
