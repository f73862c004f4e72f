package appliance

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/sfu"
	"holdfast/store"
	"holdfast/store/audit"
	"holdfast/web"
)

var errNoCall = &web.Error{Status: http.StatusNotFound, Code: "not_found", Message: "This call is over."}

// callError says what an error of the relay means for who works at the console.
func callError(err error) error {
	switch {
	case errors.Is(err, sfu.ErrNoCall):
		return errNoCall
	case errors.Is(err, sfu.ErrNotRunning):
		return &web.Error{Status: http.StatusServiceUnavailable, Code: "not_running", Message: "The call relay is not running at this moment. It is being started again: try once more in a few seconds."}
	}
	return err
}

// Calls implements web.CallDesk.
func (a console) Calls(ctx context.Context, from, limit int) (out web.CallReport, err error) {
	out.Now = time.Now()
	if out.Enabled = a.sfu != nil; !out.Enabled {
		return out, nil
	}
	st, ports := a.sfu.Status(), a.sfu.Ports()
	out.Relay = web.CallRelay{Running: st.Running, Since: st.Since, Restarts: st.Restarts, Reason: st.Reason, MemoryBytes: st.MemoryBytes,
		UDP: ports.UDP, TCP: ports.TCP, TURN: ports.TURN, Addresses: a.sfu.Addresses()}
	out.Limits = web.CallLimits{Calls: a.cfg.SFU.MaxCalls, Participants: a.cfg.SFU.MaxParticipants}
	if !st.Running {
		return out, nil
	}
	t := a.sfu.StreamStats()
	out.TURN = web.CallTURN{Relayed: t.Relayed, Connections: t.Open, Accepted: t.Accepted, Refused: t.Refused, Expired: t.Expired}
	list, err := a.sfu.Calls(ctx, "")
	if errors.Is(err, sfu.ErrNotRunning) {
		out.Relay.Running = false
		return out, nil
	}
	if err != nil {
		return out, err
	}
	out.Total = len(list)
	for _, c := range list {
		out.Participants += c.Participants
	}
	names := a.core.Load().hs.Calls.Rooms()
	for _, c := range list[min(from, len(list)):min(from+limit, len(list))] {
		one := toCall(c)
		if one.RoomID = names[c.Room]; one.RoomID != "" {
			if one.Name, err = a.roomName(ctx, one.RoomID); err != nil {
				return out, err
			}
		}
		out.Calls = append(out.Calls, one)
	}
	return out, nil
}

func toCall(c sfu.Call) web.Call {
	return web.Call{ID: c.Room, Began: c.Began, Participants: c.Participants, Node: c.Node, UpBits: c.UpBits, DownBits: c.DownBits, Loss: c.Loss, RTT: c.RTT}
}

// naming is how many members give a room without a name theirs.
const naming = 3

// roomName is what people call a room: by its name, its address, or who is in it.
func (a console) roomName(ctx context.Context, roomID string) (name string, err error) {
	c := a.core.Load()
	var members []string
	err = a.db.Read(ctx, func(q store.Querier) error {
		list, err := c.hs.Rooms.Overviews(q, roomID)
		if err != nil || len(list) == 0 {
			return err
		}
		if name = list[0].Name; name == "" {
			name = list[0].Alias
		}
		if name == "" && list[0].Joined <= naming {
			members, err = c.hs.Rooms.Members(q, roomID, "join")
		}
		return err
	})
	if err != nil || name != "" {
		return name, err
	}
	slices.Sort(members)
	for i, m := range members {
		if members[i], err = a.personName(ctx, m); err != nil {
			return "", err
		}
	}
	return strings.Join(members, ", "), nil
}

func (a console) personName(ctx context.Context, userID string) (string, error) {
	name, _, err := a.core.Load().hs.Userdata.MemberProfile(ctx, userID)
	if name == "" {
		name = userID
	}
	return name, err
}

// Call implements web.CallDesk.
func (a console) Call(ctx context.Context, id string) (out web.CallDetails, err error) {
	if a.sfu == nil || id == "" {
		return out, errNoCall
	}
	list, err := a.sfu.Calls(ctx, id)
	if err != nil {
		return out, callError(err)
	}
	hs := a.core.Load().hs
	who := hs.Calls.People(id)
	out.Call = toCall(list[0])
	names, devices := map[string]string{}, map[string]map[string]string{}
	for _, p := range list[0].People {
		m := who[p.Identity]
		if m.RoomID != "" && out.RoomID == "" {
			out.RoomID = m.RoomID
			if out.Name, err = a.roomName(ctx, m.RoomID); err != nil {
				return out, err
			}
		}
		if m.UserID != "" && names[m.UserID] == "" {
			if names[m.UserID], err = a.personName(ctx, m.UserID); err != nil {
				return out, err
			}
			if err := a.db.Read(ctx, func(q store.Querier) error {
				devices[m.UserID], err = hs.Devices.Names(q, m.UserID)
				return err
			}); err != nil {
				return out, err
			}
		}
		one := web.CallPerson{ID: p.Identity, UserID: m.UserID, Name: names[m.UserID], DeviceID: m.DeviceID, DeviceName: devices[m.UserID][m.DeviceID],
			Client: p.Client, Since: p.Since, Path: string(p.Path), Family: p.Family, Quality: p.Quality, RTT: p.RTT,
			Up: web.CallLink(p.Up), Down: web.CallLink(p.Down), Tracks: []web.CallTrack{}, Received: p.Received}
		for _, t := range p.Tracks {
			track := web.CallTrack{Kind: t.Kind, Source: t.Source, Codec: t.Codec, Muted: t.Muted}
			for _, l := range t.Layers {
				track.Layers = append(track.Layers, web.CallLayer(l))
			}
			one.Tracks = append(one.Tracks, track)
		}
		out.People = append(out.People, one)
	}
	return out, nil
}

// EndCall implements web.CallDesk.
func (a console) EndCall(ctx context.Context, id string) error {
	if a.sfu == nil || id == "" {
		return errNoCall
	}
	room := a.core.Load().hs.Calls.Rooms()[id]
	if err := a.audit.Append(audit.As(ctx, web.Caller(ctx)), audit.Event{Name: "call.end", Target: room}); err != nil {
		return err
	}
	if err := a.sfu.End(ctx, id); err != nil {
		return callError(err)
	}
	a.log.Info("an administrator acted", "administrator", web.Caller(ctx), "operation", "endCall", "roomID", room)
	return nil
}

// RemoveFromCall implements web.CallDesk.
func (a console) RemoveFromCall(ctx context.Context, id, participant string) error {
	if a.sfu == nil || !slices.Contains(a.sfu.Participants(id), participant) {
		return &web.Error{Status: http.StatusNotFound, Code: "not_found", Message: "This person is not in the call any more."}
	}
	who := a.core.Load().hs.Calls.People(id)[participant]
	if err := a.audit.Append(audit.As(ctx, web.Caller(ctx)), audit.Event{Name: "call.remove", Target: who.UserID, Data: audit.Data{"room": who.RoomID, "device": who.DeviceID}}); err != nil {
		return err
	}
	a.sfu.Remove(id, participant)
	a.log.Info("an administrator acted", "administrator", web.Caller(ctx), "operation", "removeFromCall", "roomID", who.RoomID, "userID", who.UserID, "deviceID", who.DeviceID)
	return nil
}
