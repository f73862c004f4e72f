package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"holdfast/homeserver/grouprooms"
	"holdfast/homeserver/mx"
	"holdfast/web"
)

// This file has the rules by which groups' people are put into rooms: for the console,
// the local socket and the command line.

// placeFlags are the options of holdfast group room.
type placeFlags struct {
	level, takeOut string
	rooms, out     bool
}

// placeRequest names a rule by its group and room.
type placeRequest struct {
	Group   string `json:"group"`
	Room    string `json:"room"`
	Level   int64  `json:"level"`
	TakeOut string `json:"take_out"`
	Rooms   bool   `json:"rooms"`
	Out     bool   `json:"out"`
}

// placeInfo is a rule as it is listed.
type placeInfo struct {
	Group    string   `json:"group"`
	RoomID   string   `json:"room_id"`
	Name     string   `json:"name"`
	Alias    string   `json:"alias,omitempty"`
	Space    bool     `json:"space"`
	Level    int64    `json:"level"`
	TakeOut  string   `json:"take_out"`
	Rooms    bool     `json:"rooms"`
	InRooms  int      `json:"in_rooms"`
	People   int      `json:"people"`
	In       int      `json:"in"`
	Left     int      `json:"left"`
	Waiting  int      `json:"waiting"`
	Troubles []string `json:"troubles"`
}

// placeTroubles are the mistakes that people can do something about.
var placeTroubles = []trouble{
	{grouprooms.ErrNoRule, http.StatusNotFound, "no_rule", "room", "There is no such rule for this group and room."},
	{grouprooms.ErrLevel, http.StatusBadRequest, "bad_level", "level", "A power level is a number from 1 to 100."},
	{grouprooms.ErrSpace, http.StatusBadRequest, "no_space", "rooms", "This room is no space, so it has no rooms in it."},
	{grouprooms.ErrNotice, http.StatusConflict, "notices", "room", "This is a room of the server's notices. It is for one person alone."},
	{grouprooms.ErrMany, http.StatusConflict, "too_many", "", "There are 1000 rules, which is as many as can be. Remove some first."},
}

func placeError(err error) error {
	if shown, ok := told(err, placeTroubles); ok {
		return shown
	}
	return groupError(err)
}

// errNoRoom is for what names no room.
var errNoRoom = &web.Error{Status: http.StatusNotFound, Code: "no_room", Field: "room",
	Message: "There is no such room here. Give its alias, as #ward3:example.org, or its ID, which begins with an exclamation mark."}

// placeMessage is an error as the command line prints it, or "".
func placeMessage(err error) string {
	for _, x := range placeTroubles {
		if errors.Is(err, x.err) {
			return strings.TrimSuffix(strings.ToLower(x.text[:1])+x.text[1:], ".")
		}
	}
	return ""
}

func (a *Appliance) place(ctx context.Context, in placeRequest) error {
	takeOut, ok := grouprooms.ParseTakeOut(in.TakeOut)
	if !ok {
		return &web.Error{Status: http.StatusBadRequest, Code: "bad_take_out", Field: "take_out", Message: "Whether who leaves the group is taken out is yes, no or all."}
	}
	c := a.core.Load()
	id, err := c.identity.GroupID(ctx, in.Group)
	if err != nil {
		return err
	}
	_, err = c.hs.GroupRooms.Set(ctx, grouprooms.Rule{GroupID: id, RoomID: strings.TrimSpace(in.Room), Level: in.Level, TakeOut: takeOut, Rooms: in.Rooms})
	var refused *mx.Error
	if errors.As(err, &refused) {
		err = errNoRoom
	}
	return err
}

func (a *Appliance) unplace(ctx context.Context, in placeRequest) error {
	c := a.core.Load()
	id, err := c.identity.GroupID(ctx, in.Group)
	if err != nil {
		return err
	}
	return c.hs.GroupRooms.Remove(ctx, id, in.Room, in.Out)
}

func (a *Appliance) placeAgain(ctx context.Context, in placeRequest) error {
	c := a.core.Load()
	id, err := c.identity.GroupID(ctx, in.Group)
	if err != nil {
		return err
	}
	return c.hs.GroupRooms.Apply(ctx, id, in.Room)
}

func (a *Appliance) places(ctx context.Context) ([]placeInfo, error) {
	list, err := a.core.Load().hs.GroupRooms.List(ctx)
	out := []placeInfo{}
	for _, s := range list {
		out = append(out, placeInfo{Group: s.Group, RoomID: s.RoomID, Name: s.Name, Alias: s.Alias, Space: s.Space, Level: s.Level, TakeOut: s.TakeOut.String(),
			Rooms: s.Rooms, InRooms: s.InRooms, People: s.People, In: s.In, Left: s.Left, Waiting: s.Waiting, Troubles: append([]string{}, s.Troubles...)})
	}
	return out, err
}

func (a console) GroupRooms(ctx context.Context, name string) (web.GroupRooms, error) {
	out := web.GroupRooms{Rules: []web.GroupRoom{}, Rooms: []web.Room{}}
	if _, err := a.id().GroupID(ctx, name); err != nil {
		return out, placeError(err)
	}
	list, err := a.places(ctx)
	if err != nil {
		return out, err
	}
	for _, p := range list {
		if strings.EqualFold(p.Group, name) {
			out.Rules = append(out.Rules, web.GroupRoom{Room: web.Room{RoomID: p.RoomID, Name: p.Name, Alias: p.Alias, Space: p.Space}, Level: p.Level, TakeOut: p.TakeOut,
				Rooms: p.Rooms, InRooms: p.InRooms, People: p.People, In: p.In, Left: p.Left, Waiting: p.Waiting, Troubles: p.Troubles})
		}
	}
	rooms, err := a.core.Load().hs.GroupRooms.Choices(ctx)
	for _, r := range rooms {
		out.Rooms = append(out.Rooms, web.Room{RoomID: r.RoomID, Name: r.Name, Alias: r.Alias, Space: r.Space})
	}
	return out, err
}

func (a console) SetGroupRoom(ctx context.Context, name string, r web.GroupRoom) error {
	return placeError(a.place(ctx, placeRequest{Group: name, Room: r.RoomID, Level: r.Level, TakeOut: r.TakeOut, Rooms: r.Rooms}))
}

func (a console) RemoveGroupRoom(ctx context.Context, name, room string, out bool) error {
	return placeError(a.unplace(ctx, placeRequest{Group: name, Room: room, Out: out}))
}

func (a console) ApplyGroupRoom(ctx context.Context, name, room string) error {
	return placeError(a.placeAgain(ctx, placeRequest{Group: name, Room: room}))
}

// placeControl are the operations of the local socket about groups in rooms.
func (a *Appliance) placeControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/groups/rooms", func(r *http.Request) (any, error) {
		list, err := a.places(r.Context())
		if name := r.URL.Query().Get("group"); name != "" && err == nil {
			if _, err := a.core.Load().identity.GroupID(r.Context(), name); err != nil {
				return nil, err
			}
			list = slices.DeleteFunc(list, func(p placeInfo) bool { return !strings.EqualFold(p.Group, name) })
		}
		return list, err
	})
	for path, f := range map[string]func(context.Context, placeRequest) error{"set": a.place, "remove": a.unplace, "apply": a.placeAgain} {
		handle("POST /v1/groups/rooms/"+path, func(r *http.Request) (any, error) {
			var in placeRequest
			if err := readJSON(r, &in); err != nil {
				return nil, err
			}
			return struct{}{}, f(r.Context(), in)
		})
	}
}

func (c *cli) placeCall(ctx context.Context, path string, in placeRequest, done string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.call(ctx, "POST", "/v1/groups/rooms/"+path, in, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, done)
	return nil
}

// levelNames are what clients call power levels.
var levelNames = map[string]int64{"": 0, "moderator": 50, "admin": 100}

func runGroupRoomAdd(ctx context.Context, c *cli, args []string) error {
	level, ok := levelNames[c.place.level]
	if !ok {
		n, err := strconv.ParseInt(c.place.level, 10, 64)
		if err != nil || n < 1 || n > 100 {
			return &usageError{"--level takes a number from 1 to 100, moderator or admin"}
		}
		level = n
	}
	if _, ok := grouprooms.ParseTakeOut(c.place.takeOut); !ok {
		return &usageError{"--take-out takes yes, no or all"}
	}
	in := placeRequest{Group: args[0], Room: args[1], Level: level, TakeOut: c.place.takeOut, Rooms: c.place.rooms}
	return c.placeCall(ctx, "set", in, fmt.Sprintf("The people of %s are put into %s. holdfast group room list shows how far it is, and what is wrong.", args[0], args[1]))
}

func runGroupRoomRemove(ctx context.Context, c *cli, args []string) error {
	done := "Nobody is put into %[2]s for being in %[1]s any more; who is there stays."
	if c.place.out {
		done = "Nobody is put into %[2]s for being in %[1]s any more; whom the rule put in is taken out."
	}
	return c.placeCall(ctx, "remove", placeRequest{Group: args[0], Room: args[1], Out: c.place.out}, fmt.Sprintf(done, args[0], args[1]))
}

func runGroupRoomApply(ctx context.Context, c *cli, args []string) error {
	return c.placeCall(ctx, "apply", placeRequest{Group: args[0], Room: args[1]}, fmt.Sprintf("Who is in %s and left %s is put in again.", args[0], args[1]))
}

func runGroupRoomList(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	path := "/v1/groups/rooms"
	if len(args) > 0 {
		path += "?group=" + url.QueryEscape(args[0])
	}
	var list []placeInfo
	if err := cl.call(ctx, "GET", path, nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "No rule puts people anywhere yet. holdfast group room add GROUP ROOM makes one.")
	}
	for _, p := range list {
		fmt.Fprintf(c.out, "%s: %s\n", p.Group, p.title())
		fmt.Fprintf(c.out, "  %d of %d people are in it", p.In, p.People)
		if p.Waiting > 0 {
			fmt.Fprintf(c.out, ", %d not yet", p.Waiting)
		}
		if p.Left > 0 {
			fmt.Fprintf(c.out, ", %d left it", p.Left)
		}
		fmt.Fprintln(c.out)
		var more []string
		if p.Level > 0 {
			more = append(more, fmt.Sprintf("power level %d", p.Level))
		}
		more = append(more, map[string]string{"no": "who leaves the group stays", "yes": "who leaves the group is taken out", "all": "who leaves the group is taken out, also who was in before"}[p.TakeOut])
		if p.Rooms {
			more = append(more, fmt.Sprintf("also in the %d rooms of the space", max(0, p.InRooms-1)))
		}
		fmt.Fprintf(c.out, "  %s\n", strings.Join(more, "; "))
		for _, t := range p.Troubles {
			fmt.Fprintf(c.out, "  cannot be done: %s\n", t)
		}
	}
	return nil
}

// title names a rule's room.
func (p placeInfo) title() string {
	switch {
	case p.Name != "" && p.Alias != "":
		return p.Name + " (" + p.Alias + ")"
	case p.Name != "":
		return p.Name + " (" + p.RoomID + ")"
	case p.Alias != "":
		return p.Alias
	}
	return p.RoomID
}
