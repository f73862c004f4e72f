package pusher

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// Mailer sends e-mail.
type Mailer interface {
	// Ready reports whether a mail server is set.
	Ready() bool
	// SendList sends a message of a kind that comes again; unsubscribe is the address
	// that ends it.
	SendList(ctx context.Context, to, subject, text, unsubscribe string) error
}

// Mail is what pushers of kind "email" need.
type Mail struct {
	Mailer Mailer
	// Owns reports whether an e-mail address is one that the user has proved, and gives
	// the form in which it is written to.
	Owns func(ctx context.Context, userID, address string) (canonical string, ok bool, err error)
	// Link is the page that ends a pusher.
	Link func(id int64, secret string) string
	// Site is where people open the chat.
	Site func() string
	// ServerName is what the messages call the server.
	ServerName string
	Text       func(lang, key string) string
	// Wait and Pause are as mailWait and mailPause; 0: those.
	Wait, Pause time.Duration
}

// E-mail is for those who are away: they are told once of all that is unread for a
// while, and less often the longer they stay away.
const (
	appEmail     = "m.email" // app_id of all pushers by e-mail. Spec: cs#post_matrixclientv3pushersset
	mailScheme   = "mailto:"
	mailWait     = 10 * time.Minute // how long something is unread before it is told of
	mailPause    = time.Hour        // after a message; doubles with each in a row of which nothing was read
	maxMailPause = 24 * time.Hour
	mailRooms    = 20 // in one message
	mailPeople   = 3  // named of one room
	maxShown     = 60 // runes of a name
	mailOff      = 10 * time.Minute
	mailLook     = 30 * time.Second // between two looks: a busy room must not cost one for each message
)

func (r record) kind() string {
	if r.isMail() {
		return "email"
	}
	return "http"
}

// isMail reports whether a pusher sends e-mail.
func (r record) isMail() bool { return strings.HasPrefix(r.at, mailScheme) }

// mailAt checks a pusher of kind "email" that is to be set, and gives its URL.
func (s *Service) mailAt(ctx context.Context, userID, appID, address string) (at string, err error) {
	if s.o.Mail.Mailer == nil || !s.o.Mail.Mailer.Ready() {
		return "", mx.Errorf(mx.InvalidParam, "This server sends no e-mail: no mail server is set. Set a pusher of kind \"http\".")
	}
	if appID != appEmail {
		return "", mx.Errorf(mx.InvalidParam, "The app_id of a pusher by e-mail is %q.", appEmail)
	}
	to, ok, err := s.o.Mail.Owns(ctx, userID, address)
	if err == nil && !ok {
		err = mx.Errorf(mx.ThreepidNotFound, "The pushkey must be an e-mail address of your account. Add it first.")
	}
	return mailScheme + to, err
}

// lookEvery is how long a pusher by e-mail rests between two looks.
func (s *Service) lookEvery() time.Duration { return min(mailLook, s.o.Mail.Wait) }

// stepMail is step for a pusher by e-mail.
func (s *Service) stepMail(x *sender, r record) (more bool) {
	m := s.o.Mail
	s.mu.Lock()
	x.looked = time.Now()
	s.mu.Unlock()
	if m.Mailer == nil || !m.Mailer.Ready() { // until an administrator sets a mail server again
		s.mu.Lock()
		s.later(x, mailOff)
		s.mu.Unlock()
		return false
	}
	waiting, total, err := s.count(x.user, r.pos)
	if err != nil {
		return s.trouble(x, err)
	}
	if len(waiting) == 0 {
		s.readSince(x, total.n)
		return false
	}
	var state mailState
	var digest []mailRoom
	var oldest int64
	err = s.o.DB.Read(s.ctx, func(q store.Querier) (err error) {
		if state, err = s.loadMail(q, r.id); err != nil {
			return err
		}
		digest, oldest, err = s.digest(q, r, waiting)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return false // deleted meanwhile
	}
	if err != nil {
		return s.trouble(x, err)
	}
	last := waiting[len(waiting)-1].pos
	if len(digest) == 0 { // the rules changed, or all is too old
		s.mu.Lock()
		x.pos = max(x.pos, last)
		s.unsaved[x.id] = x
		s.mu.Unlock()
		return false
	}
	if s.readSince(x, total.n) {
		state.row = 0
	}
	due := time.UnixMilli(oldest).Add(m.Wait)
	if next := time.UnixMilli(state.sentTS).Add(state.pause(m.Pause)); next.After(due) {
		due = next
	}
	if wait := time.Until(due); wait > 0 {
		s.mu.Lock()
		s.later(x, wait)
		s.mu.Unlock()
		return false
	}
	to, ok, err := m.Owns(s.ctx, r.userID, r.pushkey)
	if err != nil {
		return s.trouble(x, err)
	}
	if !ok { // the address is not the account's any more
		s.wg.Go(func() { s.endMail(r.id) })
		return false
	}
	subject, text := s.mailText(r, to, digest, m.Link(r.id, state.secret))
	err = s.mail(x, to, subject, text, m.Link(r.id, state.secret))
	if err != nil && s.ctx.Err() != nil || errors.Is(err, errHeld) {
		return false
	}
	s.mu.Lock()
	if x.gone {
		s.mu.Unlock()
		return false
	}
	if err != nil {
		defer s.mu.Unlock()
		if x.failures++; x.failures == 1 {
			s.o.Log.Warn("an e-mail about unread messages could not be sent; it is sent again later. holdfast mail test finds out more", "user", r.userID, "err", err)
		}
		x.problem = err.Error()
		wait := min(s.o.FirstWait<<min(x.failures-1, 20), maxWait)
		x.retryTS = time.Now().Add(wait).UnixMilli()
		s.later(x, wait)
		s.unsaved[x.id] = x
		return false
	}
	x.pos, x.badge = max(x.pos, last), total.n
	x.failures, x.retryTS, x.problem = 0, 0, ""
	delete(s.unsaved, x.id)
	p := x.progress
	s.mu.Unlock()
	// A message cannot be taken back: that it was sent is on disk before anything else.
	s.mailed(r.id, p, state.row+1)
	return false
}

// readSince notes that less is unread than when a message was sent last: somebody was
// here, and may be told soon again.
func (s *Service) readSince(x *sender, unread int) bool {
	s.mu.Lock()
	was, id := x.badge, x.id
	if was >= 0 && unread >= was || x.gone {
		s.mu.Unlock()
		return false
	}
	x.badge = unread
	s.unsaved[x.id] = x
	s.mu.Unlock()
	if was < 0 {
		return false
	}
	err := s.o.DB.Write(context.WithoutCancel(s.ctx), func(tx *store.Tx) error { return restMail(tx, id) })
	if err != nil {
		s.o.Log.Warn("that somebody read messages was not noted for e-mail", "err", err)
	}
	return true
}

func (s *Service) mailed(id int64, p progress, row int) {
	err := s.o.DB.Write(context.WithoutCancel(s.ctx), func(tx *store.Tx) error {
		if err := saveProgress(tx, id, p); err != nil {
			return err
		}
		return updateMail(tx, id, time.Now().UnixMilli(), row)
	})
	if err != nil {
		s.o.Log.Error("that an e-mail was sent could not be noted; it may be sent again", "err", err)
	}
}

func (s *Service) endMail(id int64) {
	err := s.o.DB.Write(context.WithoutCancel(s.ctx), func(tx *store.Tx) error { return s.drop(tx, `id = $1`, id) })
	if err != nil {
		s.o.Log.Error("a pusher to an address that is no longer its user's could not be removed", "err", err)
	}
}

// mail sends a message, unless the user is held.
func (s *Service) mail(x *sender, to, subject, text, link string) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	s.mu.Lock()
	held := x.user.held
	s.mu.Unlock()
	if held {
		return errHeld
	}
	return s.o.Mail.Mailer.SendList(s.requests, to, subject, text, link)
}

var errHeld = errors.New("the account was locked")

// pause is how long nothing is sent after the last message.
func (m mailState) pause(first time.Duration) time.Duration {
	if m.row == 0 {
		return 0
	}
	return min(first<<min(m.row-1, 10), max(maxMailPause, first))
}

// mailRoom is what a message says of one room.
type mailRoom struct {
	name    string // "": it has none
	people  []string
	n       int
	more    bool // there may be more than n
	invited bool
}

// digest makes of notifications what a message says, the rooms in the order of their
// oldest notification. oldest is that of the first, in milliseconds.
func (s *Service) digest(q store.Querier, r record, waiting []note) (out []mailRoom, oldest int64, err error) {
	at := map[string]int{}
	for _, n := range waiting {
		ev, err := s.o.Rooms.EventAt(q, n.pos)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		rules, err := s.o.Counter.Outcome(q, r.userID, ev)
		if err != nil {
			return nil, 0, err
		}
		if !rules.Notify {
			continue
		}
		if oldest == 0 || ev.OriginServerTS < oldest {
			oldest = ev.OriginServerTS
		}
		i, known := at[ev.RoomID]
		if !known {
			i = len(out)
			at[ev.RoomID] = i
			name, err := s.roomText(q, ev.RoomID, mx.RoomName, "", "name")
			if err != nil {
				return nil, 0, err
			}
			invited := ev.Type == mx.RoomMember && ev.Membership() == mx.Invite && ev.StateKey != nil && *ev.StateKey == r.userID
			out = append(out, mailRoom{name: shown(name), invited: invited})
		}
		room := &out[i]
		room.n++
		room.more = room.n >= maxWaiting
		who, err := s.roomText(q, ev.RoomID, mx.RoomMember, ev.Sender, "displayname")
		if err != nil {
			return nil, 0, err
		}
		if who = shown(who); who == "" {
			who = shown(ev.Sender)
		}
		if !slices.Contains(room.people, who) {
			room.people = append(room.people, who)
		}
	}
	return out, oldest, nil
}

// roomText is a text of a room's state, or "".
func (s *Service) roomText(q store.Querier, roomID, typ, key, field string) (string, error) {
	st, err := s.o.Rooms.State(q, roomID, typ, key)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return st.ContentString(field), nil
}

// shown makes of a name that somebody chose one that cannot shape the message around it.
func shown(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.Is(unicode.Cc, r), unicode.Is(unicode.Cf, r), r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, name)
	name = strings.Join(strings.Fields(name), " ")
	if runes := []rune(name); len(runes) > maxShown {
		name = string(runes[:maxShown-1]) + "…"
	}
	return name
}

// mailText makes the message. It says who wrote where, and not what: e-mail is read by
// others on its way.
func (s *Service) mailText(r record, to string, digest []mailRoom, link string) (subject, text string) {
	say := func(key string, args ...string) string {
		return strings.NewReplacer(args...).Replace(s.o.Mail.Text(r.lang, "mail.missed."+key))
	}
	var lines []string
	for _, room := range digest[:min(len(digest), mailRooms)] {
		people := strings.Join(room.people[:min(len(room.people), mailPeople)], ", ")
		if n := len(room.people) - mailPeople; n > 0 {
			people = say("others", "{people}", people, "{n}", strconv.Itoa(n))
		}
		count := say("some", "{n}", strconv.Itoa(room.n))
		switch {
		case room.more:
			count = say("many", "{n}", strconv.Itoa(room.n))
		case room.n == 1:
			count = say("one")
		}
		key := "room"
		if room.invited {
			key = "invite"
		}
		if room.name == "" {
			key += "Unnamed"
		}
		lines = append(lines, "  - "+say(key, "{room}", room.name, "{people}", people, "{count}", count))
	}
	if n := len(digest) - mailRooms; n > 0 {
		lines = append(lines, "  - "+say("more", "{n}", strconv.Itoa(n)))
	}
	return say("subject", "{server}", s.o.Mail.ServerName),
		say("text", "{server}", s.o.Mail.ServerName, "{user}", r.userID, "{address}", to, "{rooms}", strings.Join(lines, "\n"), "{url}", s.o.Mail.Site(), "{link}", link) + "\n"
}

// errNoMailPusher is what a link gets that ends nothing.
var errNoMailPusher = mx.Errorf(mx.NotFound, "These messages have ended already, or the link is not complete.")

// Subscription is the address that a link's messages go to; end ends them. Errors: NotFound.
func (s *Service) Subscription(ctx context.Context, id int64, secret string, end bool) (address string, err error) {
	find := func(q store.Querier) error {
		state, err := s.loadMail(q, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && subtle.ConstantTimeCompare([]byte(state.secret), []byte(secret)) != 1 {
			return errNoMailPusher
		}
		address = state.address
		return err
	}
	if !end {
		return address, s.o.DB.Read(ctx, find)
	}
	return address, s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := find(tx); err != nil {
			return err
		}
		return s.drop(tx, `id = $1`, id)
	})
}

// newSecret is the secret of a pusher's link.
func newSecret() string { return rand.Text() }
