package sliding

import (
	"encoding/json"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/threads"
	"holdfast/homeserver/timeline"
	"holdfast/homeserver/todevice"
	"holdfast/homeserver/userdata"
)

// extensions writes what is asked for beside rooms. news says that some of it is
// worth answering for.
func (a *answer) extensions() (news bool, err error) {
	e := &a.r.ext
	if d := e.ToDevice; d != nil && d.Enabled && a.device != "" {
		limit := todevice.MaxPerSync
		if d.Limit != nil && *d.Limit > 0 {
			limit = min(limit, *d.Limit)
		}
		list, last, err := a.ToDevice(a.since, limit)
		if err != nil {
			return false, err
		}
		news = news || len(list) > 0
		if list == nil {
			list = []mx.Raw{}
		}
		if err := a.extension("to_device", map[string]any{"events": list, "next_batch": timeline.At(last).String()}); err != nil {
			return false, err
		}
	}
	if e.E2EE != nil && e.E2EE.Enabled && a.device != "" {
		if err := a.keys(&news); err != nil {
			return false, err
		}
	}
	if e.Data.on() {
		if err := a.accountData(e.Data, &news); err != nil {
			return false, err
		}
	}
	if e.Receipt.on() {
		if err := a.receipts(e.Receipt, &news); err != nil {
			return false, err
		}
	}
	if e.Typing.on() {
		typing := map[string]mx.Raw{}
		for id, fresh := range a.having(e.Typing) {
			from := a.c.pos
			if fresh {
				from = 0
			} else if !a.t.All && !a.t.Typing[id] {
				continue
			}
			if t := a.Typing(id, from); t != nil {
				typing[id] = t
				news = news || !fresh
			}
		}
		if err := a.extension("typing", map[string]any{"rooms": typing}); err != nil {
			return false, err
		}
	}
	if e.Threads != nil && e.Threads.Enabled {
		if err := a.threads(e.Threads.Limit, &news); err != nil {
			return false, err
		}
	}
	return news, nil
}

// threads writes the last changes of thread subscriptions, of all there were when they
// are asked for the first time. Source: MSC4308
func (a *answer) threads(limit *int64, news *bool) error {
	const name = "io.element.msc4308.thread_subscriptions"
	from := a.c.pos
	if !a.begun[name] {
		from = 0
	} else if !a.t.All && !a.t.User {
		return nil
	}
	a.begun[name] = true
	most := threads.MaxPage
	if limit != nil {
		most = int(min(*limit, threads.MaxPage))
	}
	changes, err := a.s.o.Threads.Since(a.Q, a.user, from, a.To, most)
	if err != nil || changes.Empty() {
		return err
	}
	*news = true
	return a.extension(name, changes)
}

func (a *answer) extension(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(a.ext) > 0 {
		a.ext = append(a.ext, ',')
	}
	a.ext = append(append(append(a.ext, '"'), name...), `":`...)
	a.ext = append(a.ext, b...)
	return nil
}

// having gives the rooms that the client has or gets now and that an extension is
// wanted for; true for those that it gets for the first time. A room that is in no
// window any more still counts: else what changed meanwhile would be lost.
func (a *answer) having(e *roomExtension) map[string]bool {
	rooms := map[string]bool{}
	all := make([]string, len(a.r.lists))
	for i := range a.r.lists {
		all[i] = a.r.lists[i].name
	}
	add := func(id string, fresh bool) {
		if a.Members[id].Membership != mx.Join {
			return
		}
		_, sub := a.r.subs[id]
		lists := all
		if sh := a.shows[id]; sh != nil && len(sh.lists) > 0 {
			lists = sh.lists
		}
		if e.has(id, sub, lists) {
			rooms[id] = fresh
		}
	}
	for id := range a.fresh {
		add(id, true)
	}
	quick := !a.t.All && a.c.shape == a.r.shape
	if quick { // only what was touched can have something new
		for _, m := range []map[string]bool{a.t.Receipts, a.t.Typing} {
			for id := range m {
				a.addKnown(id, add)
			}
		}
		if a.t.User {
			for id := range a.c.Rooms {
				a.addKnown(id, add)
			}
		}
		return rooms
	}
	for id := range a.c.Rooms {
		a.addKnown(id, add)
	}
	return rooms
}

func (a *answer) addKnown(id string, add func(string, bool)) {
	if s, ok := a.c.Rooms[id]; !ok || s.Partial {
		return
	}
	if _, fresh := a.fresh[id]; !fresh {
		add(id, false)
	}
}

// keys writes the device's keys and the changes of others' devices. Source: MSC3884
func (a *answer) keys(news *bool) error {
	counts, fallback, err := a.Keys()
	if err != nil {
		return err
	}
	if counts == nil {
		counts = map[string]int{}
	}
	if _, ok := counts["signed_curve25519"]; !ok {
		with := map[string]int{"signed_curve25519": 0}
		for k, v := range counts {
			with[k] = v
		}
		counts = with
	}
	if fallback == nil {
		fallback = []string{}
	}
	out := map[string]any{"device_one_time_keys_count": counts, "device_unused_fallback_key_types": fallback}
	if a.c.pos > 0 && (a.t.All || a.t.Lists) {
		changed, left, err := a.DeviceLists(a.c.pos)
		if err != nil {
			return err
		}
		if len(changed)+len(left) > 0 {
			lists := map[string][]string{"changed": {}, "left": {}}
			lists["changed"] = append(lists["changed"], changed...)
			lists["left"] = append(lists["left"], left...)
			out["device_lists"] = lists
			*news = true
		}
	}
	*news = *news || a.t.Device || !a.begun["e2ee"]
	a.begun["e2ee"] = true
	return a.extension("e2ee", out)
}

// accountData writes account data: all of it at first, then what changed.
// Source: MSC3959
func (a *answer) accountData(e *roomExtension, news *bool) error {
	const name = "account_data"
	first := !a.begun[name]
	a.begun[name] = true
	type answer struct {
		Global []userdata.Data            `json:"global"`
		Rooms  map[string][]userdata.Data `json:"rooms"`
	}
	out := answer{Global: []userdata.Data{}, Rooms: map[string][]userdata.Data{}}
	having := a.having(e)
	fresh := first
	for _, f := range having {
		fresh = fresh || f
	}
	var all map[string][]userdata.Data
	if fresh {
		global, byRoom, err := a.Data(0)
		if err != nil {
			return err
		}
		if all = byRoom; first {
			out.Global = append(out.Global, global...)
		}
	}
	var changed map[string][]userdata.Data
	if !first && (a.t.All || a.t.User) {
		global, byRoom, err := a.Data(a.c.pos)
		if err != nil {
			return err
		}
		changed = byRoom
		out.Global = append(out.Global, global...)
	}
	for id, f := range having {
		list := changed[id]
		if f || first {
			list = all[id]
		}
		if len(list) > 0 {
			out.Rooms[id] = list
			*news = *news || !f
		}
	}
	*news = *news || len(out.Global) > 0
	return a.extension(name, out)
}

// receipts writes receipts: of a room that comes now those of the events that come
// with it and the user's own, then what changed. Source: MSC3960
func (a *answer) receipts(e *roomExtension, news *bool) error {
	out := map[string]mx.Raw{}
	private := map[string]bool{}
	if a.c.pos > 0 && (a.t.All || a.t.User) {
		ids, err := a.PrivateReceipts(a.c.pos)
		if err != nil {
			return err
		}
		for _, id := range ids {
			private[id] = true
		}
	}
	for id, fresh := range a.having(e) {
		from := a.c.pos
		if fresh {
			from = 0
		} else if !a.t.All && !a.t.Receipts[id] && !private[id] {
			continue
		}
		content, err := a.Receipts(id, from)
		if err != nil {
			return err
		}
		if fresh && content != nil {
			if content, err = a.fewer(id, content); err != nil {
				return err
			}
		}
		if content != nil {
			b := append([]byte(`{"type":"m.receipt","content":`), content...)
			out[id] = append(b, '}')
			*news = *news || !fresh
		}
	}
	return a.extension("receipts", map[string]any{"rooms": out})
}

// fewer keeps the receipts of the events that the answer has, and the user's own.
func (a *answer) fewer(roomID string, content mx.Raw) (mx.Raw, error) {
	var all map[string]map[string]map[string]json.RawMessage // event, type, user
	if err := json.Unmarshal(content, &all); err != nil {
		return nil, err
	}
	shown := map[string]bool{}
	for _, e := range a.fresh[roomID] {
		shown[e.ID] = true
	}
	for event, types := range all {
		if shown[event] {
			continue
		}
		for typ, users := range types {
			own, ok := users[a.user]
			if !ok {
				delete(types, typ)
				continue
			}
			types[typ] = map[string]json.RawMessage{a.user: own}
		}
		if len(types) == 0 {
			delete(all, event)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return json.Marshal(all)
}
