package appservice

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// answers remembers for a while what services said.
type answers struct {
	mu sync.Mutex
	m  map[string]answer
}

type answer struct {
	value mx.Raw
	until time.Time
}

// maxAnswers bounds what is remembered.
const maxAnswers = 2000

func (c *answers) init() {
	c.mu.Lock()
	c.m = map[string]answer{}
	c.mu.Unlock()
}

func (c *answers) get(key string) (mx.Raw, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.m[key]
	if ok && time.Now().After(a.until) {
		delete(c.m, key)
		return nil, false
	}
	return a.value, ok
}

func (c *answers) put(key string, v mx.Raw, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) >= maxAnswers {
		clear(c.m)
	}
	c.m[key] = answer{v, time.Now().Add(ttl)}
}

// Bounds of look-ups.
const (
	lookupTime  = 10 * time.Second // all services are asked at once
	keepAnswer  = 10 * time.Minute
	keepFailure = 30 * time.Second // also that there is none
	maxFound    = 1000             // results of one service
	keepFound   = time.Minute
)

func (s *Service) thirdpartyRoutes() []route.Route {
	rt := func(op, path string, h route.Handler) route.Route {
		return route.Route{Op: op, Auth: route.User, Limit: route.Reads, Handle: h,
			Pattern: "GET /_matrix/client/v3/thirdparty/" + path,
			Aliases: []string{"/_matrix/client/r0/thirdparty/" + path, "/_matrix/client/unstable/thirdparty/" + path}}
	}
	return []route.Route{
		rt("getProtocols", "protocols", route.Get(s.protocols)),
		rt("getProtocolMetadata", "protocol/{protocol}", route.Get(s.protocol)),
		rt("queryLocationByProtocol", "location/{protocol}", s.search("location", "alias")),
		rt("queryUserByProtocol", "user/{protocol}", s.search("user", "userid")),
		rt("queryLocationByAlias", "location", s.reverse("location", "alias")),
		rt("queryUserByID", "user", s.reverse("user", "userid")),
	}
}

// offering are the services that have a url and, where protocol is not "", offer it.
func (s *Service) offering(protocol string) (out []*app) {
	for _, a := range s.all() {
		if a.URL != "" && len(a.Protocols) > 0 && (protocol == "" || slices.Contains(a.Protocols, protocol)) {
			out = append(out, a)
		}
	}
	return out
}

// each asks services at once and gives their answers in the order of the services;
// one that does not answer in time is left out.
func (s *Service) each(ctx context.Context, apps []*app, kind string, c call, keep time.Duration, valid func(mx.Raw) mx.Raw) []mx.Raw {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	out := make([]mx.Raw, len(apps))
	var wg sync.WaitGroup
	for i, a := range apps {
		key := kind + " " + a.ID + " " + c.path + "?" + c.query.Encode()
		if v, ok := s.asked.get(key); ok {
			out[i] = v
			continue
		}
		wg.Go(func() {
			status, body, err := s.ask(ctx, a, c)
			var v mx.Raw
			switch {
			case err != nil:
				s.o.Log.Warn("an application service did not answer a look-up", "appservice", a.ID, "err", err)
			case status == http.StatusOK:
				if v = valid(body); v == nil {
					s.o.Log.Warn("an application service answered a look-up with something else than the specification has", "appservice", a.ID, "path", c.path)
				}
			case status != http.StatusNotFound:
				s.o.Log.Warn("an application service answered a look-up with an error", "appservice", a.ID, "status", status)
			}
			ttl := keep
			if v == nil {
				ttl = min(keep, keepFailure)
			}
			out[i] = v
			if err == nil || ctx.Err() == nil || ctx.Err() == context.DeadlineExceeded { // else the client went away
				s.asked.put(key, v, ttl)
			}
		})
	}
	wg.Wait()
	return out
}

// protocolData is what the specification says of a protocol, to check it by.
type protocolData struct {
	UserFields     []string          `json:"user_fields"`
	LocationFields []string          `json:"location_fields"`
	FieldTypes     map[string]mx.Raw `json:"field_types"`
	Icon           string            `json:"icon"`
	Instances      []map[string]any  `json:"instances"`
}

// metadata merges what the services say of a protocol, or is nil: the fields of the
// first, the instances of all. Spec: cs#get_matrixclientv3thirdpartyprotocols
func (s *Service) metadata(ctx context.Context, protocol string) (map[string]any, error) {
	apps := s.offering(protocol)
	esc := url.PathEscape(protocol)
	found := s.each(ctx, apps, "protocol", call{method: http.MethodGet, path: "/_matrix/app/v1/thirdparty/protocol/" + esc,
		older: "/_matrix/app/unstable/thirdparty/protocol/" + esc}, keepAnswer, func(b mx.Raw) mx.Raw {
		var p protocolData
		if json.Unmarshal(b, &p) != nil || p.Instances == nil {
			return nil
		}
		return b
	})
	var out map[string]any
	instances := []any{}
	for i, b := range found {
		if b == nil {
			continue
		}
		var p map[string]any
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, err
		}
		list, _ := p["instances"].([]any)
		for _, x := range list {
			if inst, ok := x.(map[string]any); ok {
				if network, ok := inst["network_id"].(string); ok {
					inst["instance_id"] = instanceID(apps[i].ID, network)
				}
				instances = append(instances, inst)
			}
		}
		if out == nil {
			out = p
			// What the specification requires and some bridges leave out.
			for k, v := range map[string]any{"user_fields": []any{}, "location_fields": []any{}, "field_types": map[string]any{}, "icon": ""} {
				if out[k] == nil {
					out[k] = v
				}
			}
		}
	}
	if out != nil {
		out["instances"] = instances
	}
	return out, nil
}

// instanceID names a network of a service uniquely on this server.
func instanceID(id, network string) string {
	return url.QueryEscape(id) + "|" + url.QueryEscape(network)
}

func (s *Service) protocols(ctx context.Context, _ *route.Request) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var names []string
	for _, a := range s.offering("") {
		for _, p := range a.Protocols {
			if !slices.Contains(names, p) {
				names = append(names, p)
			}
		}
	}
	found := make([]map[string]any, len(names))
	errs := make([]error, len(names))
	gate := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			gate <- struct{}{}
			found[i], errs[i] = s.metadata(ctx, name)
			<-gate
		})
	}
	wg.Wait()
	out := map[string]any{}
	for i, name := range names {
		if errs[i] != nil {
			return nil, errs[i]
		}
		if found[i] != nil {
			out[name] = found[i]
		}
	}
	return out, nil
}

func (s *Service) protocol(ctx context.Context, r *route.Request) (any, error) {
	out, err := s.metadata(ctx, r.Param("protocol"))
	if err != nil {
		return nil, err
	}
	if out == nil {
		return nil, mx.Errorf(mx.NotFound, "No application service offers the protocol %.80q.", r.Param("protocol"))
	}
	return out, nil
}

// found is the union of lists. Entries that lack what must be there are left out.
func (s *Service) found(ctx context.Context, apps []*app, c call, what string) (any, error) {
	out := []mx.Raw{}
	for _, b := range s.each(ctx, apps, "find", c, keepFound, func(b mx.Raw) mx.Raw {
		var list []mx.Raw
		if json.Unmarshal(b, &list) != nil || list == nil {
			return nil
		}
		good := []mx.Raw{}
		for _, e := range list[:min(len(list), maxFound)] {
			var m map[string]any
			if json.Unmarshal(e, &m) != nil {
				continue
			}
			_, name := m[what].(string)
			_, protocol := m["protocol"].(string)
			if _, fields := m["fields"].(map[string]any); name && protocol && fields {
				good = append(good, e)
			}
		}
		v, err := json.Marshal(good)
		if err != nil {
			return nil
		}
		return v
	}) {
		var list []mx.Raw
		if b != nil {
			if err := json.Unmarshal(b, &list); err != nil {
				return nil, err
			}
		}
		out = append(out, list...)
	}
	if len(out) == 0 {
		return nil, mx.Errorf(mx.NotFound, "No application service knows such a place or person.")
	}
	return out, nil
}

// notFields are parameters of the request itself.
var notFields = []string{"access_token", "user_id", "device_id", "org.matrix.msc3202.device_id"}

// search finds places or people of a network by its fields.
func (s *Service) search(kind, what string) route.Handler {
	return route.Get(func(ctx context.Context, r *route.Request) (any, error) {
		p := r.Param("protocol")
		apps := s.offering(p)
		if len(apps) == 0 {
			return nil, mx.Errorf(mx.NotFound, "No application service offers the protocol %.80q.", p)
		}
		fields := url.Values{}
		for k, v := range r.QueryValues() {
			if !slices.Contains(notFields, k) {
				fields[k] = v
			}
		}
		esc := kind + "/" + url.PathEscape(p)
		return s.found(ctx, apps, call{method: http.MethodGet, path: "/_matrix/app/v1/thirdparty/" + esc, older: "/_matrix/app/unstable/thirdparty/" + esc, query: fields}, what)
	})
}

// reverse finds what is behind an alias or a user.
func (s *Service) reverse(kind, param string) route.Handler {
	return route.Get(func(ctx context.Context, r *route.Request) (any, error) {
		name := r.Query(param)
		if name == "" {
			return nil, mx.Errorf(mx.MissingParam, "Say in %q which one.", param)
		}
		return s.found(ctx, s.offering(""), call{method: http.MethodGet, path: "/_matrix/app/v1/thirdparty/" + kind,
			older: "/_matrix/app/unstable/thirdparty/" + kind, query: url.Values{param: {name}}}, param)
	})
}

type listRequest struct {
	Visibility string `json:"visibility"`
}

// list puts a room into a network's directory, or takes it out.
// Spec: cs#put_matrixclientv3directorylistappservicenetworkidroomid
func (s *Service) list(ctx context.Context, r *route.Request, in listRequest) (route.Empty, error) {
	network, room := r.Param("networkID"), r.Param("roomID")
	switch {
	case r.Appservice == "":
		return route.Empty{}, mx.Errorf(mx.Forbidden, "Only an application service has such a directory.")
	case in.Visibility == "":
		return route.Empty{}, mx.Errorf(mx.MissingParam, "Say in %q whether the room is to be listed.", "visibility")
	case in.Visibility != "public" && in.Visibility != "private":
		return route.Empty{}, mx.Errorf(mx.InvalidParam, "The visibility is public or private.")
	case len(network) > maxText:
		return route.Empty{}, mx.Errorf(mx.InvalidParam, "The name of a network has at most %d bytes.", maxText)
	}
	return route.Empty{}, s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if in.Visibility == "private" {
			_, err := tx.Exec(deleteListed1SQL, r.Appservice, network, room)
			return err
		}
		if ok, err := s.o.Rooms.Known(tx, room); err != nil || !ok {
			if err == nil {
				err = mx.Errorf(mx.NotFound, "This server does not know the room.")
			}
			return err
		}
		_, err := tx.Exec(insertListedSQL, r.Appservice, network, room)
		return err
	})
}

// Listed are the rooms in the directory of a network, or of all if instance is "".
func (s *Service) Listed(q store.Querier, instance string) ([]string, error) {
	if instance == "" {
		return texts(q, listAllSQL)
	}
	for _, a := range s.all() {
		if id, network, ok := cutInstance(instance); ok && id == a.ID {
			return texts(q, listNetworkSQL, id, network)
		}
	}
	return nil, nil
}

func cutInstance(instance string) (id, network string, ok bool) {
	for i := range len(instance) {
		if instance[i] == '|' {
			id, err1 := url.QueryUnescape(instance[:i])
			network, err2 := url.QueryUnescape(instance[i+1:])
			return id, network, err1 == nil && err2 == nil
		}
	}
	return "", "", false
}

// DeleteRoom takes a room that is gone out of the directories of networks.
func (s *Service) DeleteRoom(tx *store.Tx, roomID string, _ int) (int64, error) {
	tx.AfterCommit(func() { s.rooms.drop(roomID) })
	_, err := tx.Exec(deleteListedRoomSQL, roomID)
	return 0, err
}
