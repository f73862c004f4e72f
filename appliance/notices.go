package appliance

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"holdfast/appliance/settings"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notices"
	"holdfast/identity"
	"holdfast/web"
)

// noticeRules are what an administrator decided about notices, in the form in which
// they are typed.
type noticeRules struct {
	Name       string `json:"name"`
	Avatar     string `json:"avatar"` // mxc:// address, or "none"
	RoomName   string `json:"room_name"`
	RoomAvatar string `json:"room_avatar"` // as Avatar
	Topic      string `json:"topic"`       // or "none"
	Join       string `json:"join"`        // "auto" or "ask"
	Reply      string `json:"reply"`       // "yes" or "no"
}

type noticeRule struct {
	value                 *string
	key, standard, option string
}

// fields pairs the rules with the settings that keep them and what holds without one.
func (a *Appliance) noticeFields(n *noticeRules) []noticeRule {
	return []noticeRule{
		{&n.Name, settings.NoticeName, a.organisation(), "name"},
		{&n.Avatar, settings.NoticeAvatar, "none", "avatar"},
		{&n.RoomName, settings.NoticeRoom, web.Text("en", "notices.room"), "room-name"},
		{&n.RoomAvatar, settings.NoticeRoomAvatar, "none", "room-avatar"},
		{&n.Topic, settings.NoticeTopic, web.Text("en", "notices.topic"), "topic"},
		{&n.Join, settings.NoticeJoin, "auto", "join"},
		{&n.Reply, settings.NoticeReply, "no", "reply"},
	}
}

// noticeRules are the rules that hold.
func (a *Appliance) noticeRules() (n noticeRules) {
	for _, r := range a.noticeFields(&n) {
		if *r.value = a.settings.Get(r.key); *r.value == "" {
			*r.value = r.standard
		}
	}
	return n
}

// maxNoticeText bounds names and the topic, in bytes. A display name has as many.
const maxNoticeText = 256

// check says what is wrong with rules.
func (n noticeRules) check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for option, s := range map[string]string{"name": n.Name, "room-name": n.RoomName, "topic": n.Topic} {
		if len(s) > maxNoticeText || strings.ContainsRune(s, 0) || strings.TrimSpace(s) == "" {
			wrong("--%s takes a text of at most %d bytes", option, maxNoticeText)
		}
	}
	for option, s := range map[string]string{"avatar": n.Avatar, "room-avatar": n.RoomAvatar} {
		if s != "none" && !mx.ValidContentURI(s) {
			wrong("--%s %q is no mxc:// address of an uploaded picture; write none for no picture", option, s)
		}
	}
	if n.Join != "auto" && n.Join != "ask" {
		wrong("--join is auto (people are in the room at once) or ask (they are invited)")
	}
	if n.Reply != "yes" && n.Reply != "no" {
		wrong("--reply is yes or no")
	}
	return errors.Join(errs...)
}

// setNoticeRules changes the rules that are not empty.
func (a *Appliance) setNoticeRules(ctx context.Context, change noticeRules) error {
	all := a.noticeRules()
	values := map[string]string{}
	to := a.noticeFields(&all)
	for i, r := range a.noticeFields(&change) {
		if *r.value != "" {
			*to[i].value = *r.value
			if values[r.key] = *r.value; *r.value == r.standard {
				values[r.key] = ""
			}
		}
	}
	if err := all.check(); err != nil {
		return err
	}
	return a.settings.Put(ctx, values)
}

// notices is what the homeserver is told about notices.
func (a *Appliance) notices() notices.Settings {
	n := a.noticeRules()
	some := func(s string) string {
		if s == "none" {
			return ""
		}
		return s
	}
	return notices.Settings{Name: n.Name, Avatar: some(n.Avatar), RoomName: n.RoomName, RoomAvatar: some(n.RoomAvatar), Topic: some(n.Topic),
		Ask: n.Join == "ask", Reply: n.Reply == "yes"}
}

// Bounds of notices from the command line.
const (
	noticesAtOnce  = 100      // people told by one request
	maxNoticeBytes = 10 << 10 // of the text: with all its signs escaped, the local socket takes it
)

// noticeRequest is a text for one user, or for the people after a name.
type noticeRequest struct {
	User  string `json:"user,omitempty"`
	After string `json:"after,omitempty"`
	Text  string `json:"text"`
	ID    string `json:"id"` // the same again tells nobody twice
}

// noticeResult says how far a notice to all came.
type noticeResult struct {
	Sent   int               `json:"sent"`
	Failed map[string]string `json:"failed"`         // user: why
	Next   string            `json:"next,omitempty"` // name after which to go on; "": all were told
}

// noticeControl are the operations of the local socket about notices.
func (a *Appliance) noticeControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/notices", func(*http.Request) (any, error) { return a.noticeRules(), nil })
	handle("PUT /v1/notices", func(r *http.Request) (any, error) {
		var in noticeRules
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		err := a.setNoticeRules(r.Context(), in)
		return a.noticeRules(), err
	})
	handle("POST /v1/notices", func(r *http.Request) (any, error) {
		var in noticeRequest
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		u, err := a.core.Load().identity.User(r.Context(), a.userID(in.User))
		if err == nil && errors.Is(u.Err(), identity.ErrDeactivated) {
			err = identity.ErrNoUser
		}
		if err != nil {
			return nil, err
		}
		if err := a.notify(r.Context(), u, in); err != nil {
			return nil, err
		}
		a.log.Info("a notice was sent from the command line", "user", u.UserID)
		return noticeResult{Sent: 1}, nil
	})
	handle("POST /v1/notices/all", func(r *http.Request) (any, error) {
		var in noticeRequest
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		return a.notifyAll(r.Context(), in)
	})
}

// notify tells a user a text from the command line.
func (a *Appliance) notify(ctx context.Context, u identity.User, in noticeRequest) error {
	switch {
	case strings.TrimSpace(in.Text) == "":
		return errors.New("the notice has no text")
	case len(in.Text) > maxNoticeBytes:
		return fmt.Errorf("a notice has at most %d bytes", maxNoticeBytes)
	}
	content, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": in.Text})
	if err != nil {
		return err
	}
	_, err = a.core.Load().hs.Notices.Send(ctx, notices.Notice{UserID: u.UserID, Content: content, By: "the command line", Txn: in.ID})
	return err
}

// notifyAll tells the next people, in the order of their names: everybody whose account
// is open, but not the users of application services.
func (a *Appliance) notifyAll(ctx context.Context, in noticeRequest) (noticeResult, error) {
	out := noticeResult{Failed: map[string]string{}}
	list, err := a.people(ctx)
	if err != nil {
		return out, err
	}
	c := a.core.Load()
	list = slices.DeleteFunc(list, func(u identity.User) bool {
		return u.Localpart <= in.After || errors.Is(u.Err(), identity.ErrDeactivated) || c.hs.Appservice.Reserved(u.Localpart, "")
	})
	slices.SortFunc(list, func(a, b identity.User) int { return strings.Compare(a.Localpart, b.Localpart) })
	if len(list) > noticesAtOnce {
		list = list[:noticesAtOnce]
		out.Next = list[len(list)-1].Localpart
	}
	for _, u := range list {
		if err := a.notify(ctx, u, in); err != nil {
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			out.Failed[u.UserID] = err.Error()
			continue
		}
		out.Sent++
	}
	a.log.Info("a notice to all was sent from the command line", "id", in.ID, "told", out.Sent, "not", len(out.Failed), "after", in.After)
	return out, nil
}

func runNotice(ctx context.Context, c *cli, args []string) error {
	want := 2
	if c.all {
		want = 1
	}
	switch {
	case len(args) < want && c.all:
		return &usageError{"say which TEXT"}
	case len(args) < want:
		return &usageError{"say which USER and TEXT, or --all and TEXT"}
	case len(args) > want:
		return &usageError{fmt.Sprintf("%q is too much: put the text between quotation marks", args[want])}
	}
	in := noticeRequest{Text: args[want-1], ID: c.noticeID}
	if !c.all {
		in.User = args[0]
	}
	if in.Text == "-" {
		b, err := io.ReadAll(io.LimitReader(bufio.NewReader(os.Stdin), maxNoticeBytes+1))
		if err != nil {
			return fmt.Errorf("the text cannot be read from standard input: %w", err)
		}
		in.Text = strings.TrimRight(string(b), "\r\n")
	}
	if in.ID == "" {
		in.ID = strings.ToLower(rand.Text()[:12])
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	path := "/v1/notices"
	if c.all {
		path += "/all"
	}
	sum := noticeResult{Failed: map[string]string{}}
	for {
		var part noticeResult
		if err := cl.call(ctx, "POST", path, in, &part); err != nil {
			if sum.Sent > 0 || c.all {
				return fmt.Errorf("%w\n%d were told. To go on, call the same with --id %s: nobody is told twice", err, sum.Sent, in.ID)
			}
			return err
		}
		sum.Sent += part.Sent
		for u, why := range part.Failed {
			sum.Failed[u] = why
		}
		if in.After = part.Next; in.After == "" {
			break
		}
	}
	if c.json {
		if err := c.printJSON(map[string]any{"id": in.ID, "sent": sum.Sent, "failed": sum.Failed}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.out, "%d told.\n", sum.Sent)
	}
	if len(sum.Failed) == 0 {
		return nil
	}
	var lines []string
	for u, why := range sum.Failed {
		lines = append(lines, u+": "+why)
	}
	slices.Sort(lines)
	return fmt.Errorf("%d could not be told:\n%s\nTo try again, call the same with --id %s: nobody is told twice", len(lines), strings.Join(lines, "\n"), in.ID)
}

func runNoticesSet(ctx context.Context, c *cli, _ []string) error {
	if c.notices == (noticeRules{}) {
		return &usageError{"say what to change, such as --room-name News"}
	}
	return c.noticeRules(ctx, "PUT", c.notices)
}

func runNoticesShow(ctx context.Context, c *cli, _ []string) error {
	return c.noticeRules(ctx, "GET", nil)
}

func (c *cli) noticeRules(ctx context.Context, method string, in any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var n noticeRules
	if err := cl.call(ctx, method, "/v1/notices", in, &n); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(n)
	}
	join, reply := "people are in the room at once", "nobody"
	if n.Join == "ask" {
		join = "people are invited"
	}
	if n.Reply == "yes" {
		reply = "everybody in their own room"
	}
	fmt.Fprintf(c.out, "Sender:        %s\nIts picture:   %s\nRoom:          %s\nIts picture:   %s\nIts topic:     %s\nFirst notice:  %s\nMay answer:    %s\n",
		n.Name, n.Avatar, n.RoomName, n.RoomAvatar, n.Topic, join, reply)
	return nil
}
