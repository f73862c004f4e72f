// Package homeserver is the Matrix homeserver: it makes its parts, joins them and
// lists their routes.
//
// Invariants: parts know those below them by import and those beside or above
// them by functions that are given here; New starts nothing that Close does not end.
package homeserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"holdfast/homeserver/account"
	"holdfast/homeserver/admin"
	"holdfast/homeserver/appservice"
	"holdfast/homeserver/calls"
	"holdfast/homeserver/delayed"
	"holdfast/homeserver/devices"
	"holdfast/homeserver/e2ee"
	"holdfast/homeserver/ephemeral"
	"holdfast/homeserver/federation"
	"holdfast/homeserver/feed"
	"holdfast/homeserver/grouprooms"
	"holdfast/homeserver/media"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notices"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/oldsync"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/push"
	"holdfast/homeserver/push/pusher"
	"holdfast/homeserver/push/unifiedpush"
	"holdfast/homeserver/push/webpush"
	"holdfast/homeserver/rendezvous"
	"holdfast/homeserver/reports"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/search"
	"holdfast/homeserver/sliding"
	"holdfast/homeserver/syncv3"
	"holdfast/homeserver/tasks"
	"holdfast/homeserver/threads"
	"holdfast/homeserver/timeline"
	"holdfast/homeserver/todevice"
	"holdfast/homeserver/userdata"
	"holdfast/store"
	"holdfast/store/audit"
	"holdfast/store/blob"
	"holdfast/store/sealed"
)

// Mailer sends e-mail.
type Mailer interface {
	account.Mailer
	pusher.Mailer
}

// Options of New.
type Options struct {
	ServerName string
	// PublicURL is the origin that a request came in by, "https://host[:port]".
	PublicURL func(*http.Request) string
	DB        *store.DB
	Secrets   *sealed.Box // seals secrets in the database
	Audit     *audit.Log  // nil: what administrators do is in the log alone
	Blobs     *blob.Store
	Log       *slog.Logger
	Tokens    route.Authenticator
	Accounts  account.Accounts
	People    admin.Accounts
	// Standing refuses a user whose account is not in good standing, for what is asked
	// with another proof than an access token, or happens later than it was asked.
	// Errors: UserLocked, UserDeactivated, UserSuspended. nil: everybody is.
	Standing func(ctx context.Context, userID string) error
	// Kept says what of a user's profile and addresses a directory keeps. nil: nothing.
	Kept  func(ctx context.Context, userID string) (userdata.Kept, error)
	Mail  Mailer            // nil: no e-mail is sent
	Media calls.MediaTokens // nil: no call relay
	TURN  calls.TURN        // nil: no TURN server

	RegistrationOpen bool
	// Logins says which ways of the legacy login are open. nil: all.
	Logins        func() account.Logins
	SharedSecret  string
	Limits        bool                          // whether requests are limited in rate
	Text          func(lang, key string) string // message catalogue of the confirmation page; nil: keys
	AppserviceDir string                        // "": no application services
	Files         func() media.Settings         // what an administrator set for media; nil: the defaults
	Client        *http.Client                  // for requests to other servers; nil: one without restrictions
	Services      *http.Client                  // for requests to application services; nil: Client
	Named         *http.Client                  // for requests to servers that an administrator named; nil: Client
	PublicAddress func(netip.Addr) bool         // whether a page whose link is previewed may be at an address; nil: at none
	PlainPush     bool                          // whether push gateways may go without TLS
	PushWait      time.Duration                 // after a push gateway's first failure; 0: some seconds
	// MailWait is how long something is unread before somebody is told of it by e-mail,
	// and MailPause the time until the next message. 0: the defaults.
	MailWait, MailPause time.Duration
	// Site is where people open the chat, "https://host"; nil: the server's name.
	Site func() string
	// Own reports whether a URL leads to this server. nil: none does.
	Own  func(*url.URL) bool
	Push func() unifiedpush.Settings // what an administrator set for push; nil: the defaults
	// WebPushKey gives the private key by which browsers know this server; nil:
	// nothing is sent to browsers. WebPushSubject is how to reach who runs it.
	WebPushKey      func(ctx context.Context) ([]byte, error)
	WebPushSubject  func() string
	Version         string // of the program, for other servers
	OnDeviceDeleted func(tx *store.Tx, userID, deviceID string) error
	// Groups are those of people, whom rules put into rooms. nil: there are none.
	Groups Groups
	// FindEveryone reports whether people find all local accounts by name. nil: only
	// those with whom they share a room or who are in a public one.
	FindEveryone func() bool
	// Notices is what an administrator decided about notices of the server; nil: the standard.
	Notices func() notices.Settings
	// RoomVersion is the version of new rooms that ask for none. "": pdu.Default.
	RoomVersion string
	// CallServers are other servers whose users may be in calls of rooms that they are in;
	// CallRoots checks their certificates, nil: the system's authorities.
	CallServers []string
	CallRoots   *x509.CertPool
	// ForcesEncryption reports whether the rooms that clients make with a preset are
	// encrypted in any case. nil: none are.
	ForcesEncryption func(preset string) bool
	// PolicyKey is the ed25519 key, in unpadded base64, of the policy server whose
	// name is this server's. "": none.
	PolicyKey string
}

// Groups are groups of people, by their IDs.
type Groups interface {
	// GroupMembers are the user IDs of who is in a group and whose account is open.
	GroupMembers(q store.Querier, groupID string) ([]string, error)
	// GroupName is a group's name. Errors: store.ErrNotFound.
	GroupName(q store.Querier, groupID string) (string, error)
}

// Homeserver is a running homeserver.
type Homeserver struct {
	Rooms      *rooms.Rooms
	Timeline   *timeline.Timeline
	Search     *search.Service
	Feed       *feed.Feed
	Userdata   *userdata.Service
	Devices    *devices.Service
	E2EE       *e2ee.Service
	ToDevice   *todevice.Service
	Ephemeral  *ephemeral.Service
	Account    *account.Service
	Calls      *calls.Service
	Delayed    *delayed.Service
	Appservice *appservice.Service
	Files      *media.Service
	Pushers    *pusher.Service
	Notices    *notices.Service
	Phones     *unifiedpush.Service
	Threads    *threads.Service
	GroupRooms *grouprooms.Service // nil without Options.Groups

	db         *store.DB
	server     *route.Server
	federation *route.Server
	routes     []route.Route
	end        []func()
}

// New makes and starts a homeserver. Close ends it, before the store.
func New(ctx context.Context, o Options) (h *Homeserver, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	made := &Homeserver{db: o.DB} // what is returned may be nil
	defer func() {
		if err != nil {
			made.Close()
			h = nil
		}
	}()
	h = made
	client := o.Client
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second}
	}
	if o.Standing == nil {
		o.Standing = func(context.Context, string) error { return nil }
	}
	settings := o.Notices
	if settings == nil {
		settings = func() notices.Settings { return notices.Settings{Name: "Server", RoomName: "Server notices"} }
	}
	me := mx.UserID(notices.Localpart, o.ServerName)
	hub := notify.New()
	h.Rooms, err = rooms.New(ctx, rooms.Options{DB: o.DB, Secrets: o.Secrets, ServerName: o.ServerName, Log: o.Log, NoticesUser: me,
		Profile: func(q store.Querier, userID string) (displayName, avatarURL string, err error) {
			if userID == me {
				set := settings()
				return set.Name, set.Avatar, nil
			}
			return profile(q, userID)
		},
		DefaultVersion: func() pdu.Version { return pdu.Version(o.RoomVersion) }, ForcesEncryption: o.ForcesEncryption,
		InvitesBlocked: func(q store.Querier, userID string) (bool, error) { return h.Userdata.InvitesBlocked(q, userID) }, Client: client,
		MayShow: func(ctx context.Context, userID string, content json.RawMessage) error {
			return h.Userdata.MayShow(ctx, userID, mx.Raw(content))
		},
		MayTakeAlias: func(alias, by string) error { return h.Appservice.MayTake(alias, by) },
		AskAlias:     func(ctx context.Context, alias string) (bool, error) { return h.Appservice.AskAlias(ctx, alias) },
		AskUser:      func(ctx context.Context, userID string) error { return h.askUser(ctx, userID) },
		Listed:       func(q store.Querier, instance string) ([]string, error) { return h.Appservice.Listed(q, instance) }})
	if err != nil {
		return nil, err
	}
	h.Userdata = userdata.New(userdata.Options{Kept: o.Kept, DB: o.DB, ServerName: o.ServerName, Rooms: h.Rooms, PublicUsers: h.Rooms.PublicUsers, Everyone: o.FindEveryone,
		Builtin: func(userID string) (p userdata.Profile, ok bool) {
			if ok = userID == me; ok {
				set := settings()
				p = userdata.Profile{DisplayName: set.Name, AvatarURL: set.Avatar}
			}
			return p, ok
		},
		ProfileChanged: func(ctx context.Context, userID string, p userdata.Profile) error {
			return errors.Join(h.Rooms.SetProfile(ctx, userID, p.DisplayName, p.AvatarURL), h.Ephemeral.ProfileChanged(ctx, userID, p.DisplayName, p.AvatarURL))
		}})
	h.Devices = devices.New(devices.Options{DB: o.DB, Confirm: func(ctx context.Context, r *route.Request) error { return h.Account.Confirm(ctx, r) }})
	h.ToDevice = todevice.New(todevice.Options{DB: o.DB, Devices: h.Devices, Queued: func(tx *store.Tx, userID, deviceID string, pos int64, msg mx.Raw) error {
		return h.Appservice.Message(tx, userID, deviceID, pos, msg)
	}})
	var administration *admin.Service // made below, before the first request
	h.E2EE = e2ee.New(e2ee.Options{DB: o.DB, ServerName: o.ServerName, Rooms: h.Rooms, Devices: h.Devices, Messages: h.ToDevice,
		ConfirmReset: func(ctx context.Context, r *route.Request) error {
			if administration.MayReset(r.UserID) {
				return nil
			}
			return h.Account.ConfirmReset(ctx, r)
		}})
	h.Devices.OnDelete(h.ToDevice.DeviceDeleted)
	h.Devices.OnDelete(h.E2EE.DeviceDeleted)
	h.Devices.OnDelete(func(tx *store.Tx, userID, deviceID string) error {
		tx.AfterCommit(func() { h.Calls.DeviceGone(userID, deviceID) })
		return nil
	})
	if o.OnDeviceDeleted != nil {
		h.Devices.OnDelete(o.OnDeviceDeleted)
	}
	h.Devices.OnRename(h.E2EE.Renamed)
	h.Rooms.Hook(func(tx *store.Tx, e *rooms.Event) error {
		if e.Type != mx.RoomMember || e.StateKey == nil {
			return nil
		}
		return h.E2EE.Membership(tx, e.RoomID, *e.StateKey, e.Membership() == mx.Join, e.Pos)
	})
	h.Ephemeral = ephemeral.New(ephemeral.Options{DB: o.DB, Rooms: h.Rooms, SetRoomData: h.Userdata.SetRoomData, SharedUsers: h.Rooms.SharedUsers})
	h.end = append(h.end, h.Ephemeral.Close)
	if err := h.Ephemeral.Start(ctx); err != nil {
		return nil, err
	}
	h.Rooms.Hook(func(tx *store.Tx, e *rooms.Event) error {
		if e.Type == mx.RoomMember && e.StateKey != nil && e.Membership() != mx.Join {
			h.Ephemeral.Left(tx, e.RoomID, *e.StateKey)
		}
		h.Ephemeral.Active(e.Sender)
		return nil
	})
	h.Rooms.Hook(h.roomReplaced)
	h.Notices = notices.New(notices.Options{DB: o.DB, Rooms: h.Rooms, HasTag: h.Userdata.HasTag, AddTag: h.Userdata.AddTag, HasAccount: userExists, Settings: settings})
	h.Rooms.Hook(h.Notices.Stored)
	if o.Groups != nil {
		h.GroupRooms = grouprooms.New(grouprooms.Options{DB: o.DB, Rooms: h.Rooms, Audit: o.Audit, Log: o.Log, Members: o.Groups.GroupMembers, Name: o.Groups.GroupName})
		h.Rooms.Hook(h.GroupRooms.Stored)
	}
	var counter *push.Counter
	h.Threads = threads.New(threads.Options{DB: o.DB, Rooms: h.Rooms,
		Event: func(q store.Querier, roomID, eventID, userID string) (*rooms.Event, error) {
			return h.Timeline.Visible(q, roomID, eventID, userID)
		},
		Thread:  func(q store.Querier, e *rooms.Event) (string, error) { return counter.Thread(q, e) },
		Recount: func(tx *store.Tx, userID, roomID string) error { return counter.Recount(tx, userID, roomID) }})
	if err := h.Threads.Load(ctx); err != nil {
		return nil, err
	}
	h.Rooms.Hook(h.Threads.Stored)
	counter = push.New(push.Options{DB: o.DB, Rooms: h.Rooms, ReadUpTo: h.Ephemeral.ReadUpTo, Rules: h.Userdata.CompiledRules, Ignored: h.Userdata.Ignored, Threads: h.Threads, Log: o.Log})
	h.end = append(h.end, counter.Close)
	deviceExists := func(q store.Querier, userID, deviceID string) (bool, error) {
		_, err := h.Devices.Get(q, userID, deviceID)
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
	var browsers *webpush.Sender
	if o.WebPushKey != nil {
		browsers = webpush.New(webpush.Options{Client: o.Client, Key: o.WebPushKey, Subject: o.WebPushSubject})
	}
	held := func(ctx context.Context, userID string) (bool, error) { return lockedOut(o.Standing(ctx, userID)) }
	h.Phones = unifiedpush.New(unifiedpush.Options{DB: o.DB, Secrets: o.Secrets, Log: o.Log, Client: o.Client, Own: o.Own, Held: held, Settings: o.Push, Web: browsers, HasDevice: deviceExists,
		Claimed: func(userID string) { h.Pushers.RetryLocal(userID) }})
	h.end = append(h.end, h.Phones.Close)
	if err := h.Phones.Start(ctx); err != nil {
		return nil, err
	}
	h.Devices.OnDelete(h.Phones.DeviceDeleted)
	h.Pushers = pusher.New(pusher.Options{DB: o.DB, Secrets: o.Secrets, Rooms: h.Rooms, Counter: counter, Log: o.Log, Client: o.Client, Plain: o.PlainPush, FirstWait: o.PushWait,
		Local: h.Phones.Deliver, IsLocal: h.Phones.IsGateway, Check: h.Phones.CheckPusher, Held: held, Mail: mails(o)})
	h.Devices.OnDelete(h.Pushers.DeviceDeleted)
	h.Timeline = timeline.New(timeline.Options{DB: o.DB, Rooms: h.Rooms, Filter: userdata.Filter, Ignored: h.Userdata.Ignored})
	if err := h.Timeline.Load(ctx); err != nil {
		return nil, err
	}
	reported := reports.New(reports.Options{DB: o.DB, Rooms: h.Rooms, Event: h.Timeline.Visible,
		UserExists: userExists})
	h.Search = search.New(search.Options{DB: o.DB, Rooms: h.Rooms, Timeline: h.Timeline, Log: o.Log})
	h.Rooms.Hook(h.Search.Stored)
	h.Rooms.OnPurge(h.Search.Purged)
	h.Feed = feed.New(feed.Options{DB: o.DB, Hub: hub, Rooms: h.Rooms, Timeline: h.Timeline, Userdata: h.Userdata, Ephemeral: h.Ephemeral,
		E2EE: h.E2EE, Ignored: h.Userdata.Ignored, InvitesBlocked: h.Userdata.InvitesBlocked,
		Unread: func(q store.Querier, roomID, userID string, to int64) (feed.Counts, map[string]feed.Counts, error) {
			main, threads, err := counter.Room(q, roomID, userID, to)
			out := make(map[string]feed.Counts, len(threads))
			for id, c := range threads {
				out[id] = feed.Counts(c)
			}
			return feed.Counts(main), out, err
		}, Recounted: h.Threads.Recounted})
	h.end = append(h.end, h.Feed.Close)
	syncs := syncv3.New(syncv3.Options{DB: o.DB, Feed: h.Feed, Timeline: h.Timeline, Filter: userdata.Filter, Synced: h.Ephemeral.Synced})
	slides := sliding.New(sliding.Options{DB: o.DB, Feed: h.Feed, Rooms: h.Rooms, Timeline: h.Timeline, Userdata: h.Userdata, Threads: h.Threads, Synced: h.Ephemeral.Synced, Log: o.Log})
	h.end = append(h.end, slides.Close)
	h.Devices.OnDelete(slides.DeviceDeleted)

	before := oldsync.New(oldsync.Options{DB: o.DB, Hub: hub, Rooms: h.Rooms, Timeline: h.Timeline, AccountData: h.Userdata.AccountDataSince,
		Presence: h.Ephemeral.Presence, Ignored: h.Userdata.Ignored})
	h.Delayed, err = delayed.New(delayed.Options{DB: o.DB, Secrets: o.Secrets, Log: o.Log, IsJoined: h.Rooms.IsJoined,
		Send: func(ctx context.Context, e delayed.Event) (string, error) {
			if !endsSomething(e) {
				if err := o.Standing(ctx, e.UserID); err != nil {
					return "", err
				}
			}
			// The transaction is ours, not the device's: it must not see its ID in unsigned.
			return h.Rooms.Send(ctx, rooms.NewEvent{RoomID: e.RoomID, Sender: e.UserID, DeviceID: "org.matrix.msc4140", TxnID: e.TxnID, Type: e.Type,
				StateKey: e.StateKey, Content: e.Content, Timestamp: e.Timestamp, Unsigned: map[string]any{"org.matrix.msc4140.delay_id": e.DelayID}})
		}})
	if err != nil {
		return nil, err
	}
	h.Calls, err = calls.New(ctx, calls.Options{ServerName: o.ServerName, DB: o.DB, Secrets: o.Secrets, Log: o.Log, Media: o.Media, TURN: o.TURN, PublicURL: o.PublicURL,
		IsJoined: h.Rooms.IsJoined, Delayed: h.Delayed, Standing: o.Standing, Remote: remoteCalls(o),
		DeviceExists: deviceExists})
	if err != nil {
		return nil, err
	}
	h.end = append(h.end, h.Calls.Close)
	h.Rooms.Hook(func(tx *store.Tx, e *rooms.Event) error {
		if e.Type == mx.RoomMember && e.StateKey != nil && e.Membership() != mx.Join {
			tx.AfterCommit(func() { h.Calls.Left(e.RoomID, *e.StateKey) })
		}
		return nil
	})
	var registrations []appservice.Registration
	if o.AppserviceDir != "" {
		if registrations, err = appservice.Load(o.AppserviceDir); err != nil {
			return nil, err
		}
	}
	h.Appservice, err = appservice.New(ctx, appservice.Options{ServerName: o.ServerName, DB: o.DB, Secrets: o.Secrets, Audit: o.Audit, Rooms: appRooms{h.Rooms, h.Timeline},
		Ephemeral: appEphemeral{h.Ephemeral}, Keys: h.E2EE, Log: o.Log, Registrations: registrations, Client: cmp.Or(o.Services, o.Client),
		UserExists: userExists, DeviceExists: deviceExists, Took: todevice.Ack})
	if err != nil {
		return nil, err
	}
	h.Rooms.Hook(func(tx *store.Tx, e *rooms.Event) error {
		return h.Appservice.Stored(tx, appservice.Event{Pos: e.Pos, RoomID: e.RoomID, Sender: e.Sender, Type: e.Type, StateKey: e.StateKey})
	})
	h.Account = account.New(account.Options{Kept: h.Userdata.Kept, ServerName: o.ServerName, PublicURL: o.PublicURL, Accounts: o.Accounts, Log: o.Log,
		RegistrationOpen: o.RegistrationOpen, Logins: o.Logins, SharedSecret: o.SharedSecret,
		AppserviceUser: func(appservice, userID string) bool { return userID != me && h.Appservice.Owns(appservice, userID) }, AppserviceOnly: h.Appservice.Reserved, Text: o.Text, Mail: mailOf(o), Subscription: h.Pushers.Subscription, Erase: h.Timeline.Erase,
		WellKnown: h.Calls.WellKnown, RoomVersion: h.Rooms.DefaultVersion, ForcesEncryption: o.ForcesEncryption, PolicyKey: o.PolicyKey, Capabilities: func() map[string]any { return h.capabilities() }})
	h.Files = media.New(media.Options{DB: o.DB, Blobs: o.Blobs, ServerName: o.ServerName, Log: o.Log, Settings: o.Files, PublicAddress: o.PublicAddress, RoomEvents: h.Rooms.EventsHolding,
		InUse: func(q store.Querier, f func(string)) error {
			set := settings()
			f(set.Avatar)
			f(set.RoomAvatar)
			return errors.Join(h.Userdata.Holding(q, "mxc://", f), h.Rooms.StateHolding(q, "mxc://", func(event json.RawMessage) { f(string(event)) }))
		}})
	h.end = append(h.end, h.Files.Close)

	// The list of everything the homeserver answers.
	var routes []route.Route
	routes = append(routes, h.Delayed.Wrap(h.Rooms.Routes())...)
	for _, more := range [][]route.Route{h.Timeline.Routes(), syncs.Routes(), slides.Routes(), h.Threads.Routes(), h.Userdata.Routes(), h.Devices.Routes(), h.E2EE.Routes(),
		h.ToDevice.Routes(), h.Ephemeral.Routes(), h.Delayed.Routes(), h.Calls.Routes(), h.Appservice.Routes(), h.Account.Routes(), h.Files.Routes(), h.Pushers.Routes(), h.Phones.Routes(), push.NewList(counter, h.Rooms, h.Timeline).Routes(), reported.Routes(), h.Search.Routes(), before.Routes()} {
		routes = append(routes, more...)
	}
	routes = append(routes, rendezvous.New(rendezvous.Options{PublicURL: o.PublicURL}).Routes()...)
	work := tasks.New(tasks.Options{DB: o.DB, Log: o.Log})
	sweeps := []func(*store.Tx, string, int) (int64, error){h.Ephemeral.DeleteRoom, h.Userdata.DeleteRoom, h.Delayed.DeleteRoom, h.Appservice.DeleteRoom, counter.DeleteRoom, h.Threads.DeleteRoom}
	if h.GroupRooms != nil {
		sweeps = append(sweeps, h.GroupRooms.DeleteRoom)
	}
	administration = admin.New(admin.Options{Tasks: work, ForgetCounts: counter.DeleteRoom, Sweeps: sweeps,
		DB: o.DB, Audit: o.Audit, Log: o.Log, ServerName: o.ServerName, Version: o.Version, Accounts: o.People,
		Devices: h.Devices, E2EE: h.E2EE, Userdata: h.Userdata, Rooms: h.Rooms, Files: h.Files, Timeline: h.Timeline, Pushers: h.Pushers, Notices: h.Notices})
	routes = append(routes, administration.Routes()...)
	others := federation.New(federation.Options{Version: o.Version, Key: h.Rooms.SigningKey(), Userinfo: h.Calls.Userinfo})
	routes = append(routes, others.ClientRoutes()...)
	h.federation = route.NewServer(nil, o.Log, o.Limits, others.Routes())
	h.routes = routes
	h.Account.Offer(routes)
	h.server = route.NewServer(o.Tokens, o.Log, o.Limits, routes)
	h.server.UseAppservices(h.Appservice)
	h.server.OnSeen(h.Devices.Seen)
	h.server.RateOf(administration.RateOf)

	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	background.Go(func() { h.Devices.Run(run) })
	background.Go(func() { h.Files.Run(run) })
	h.end = append(h.end, func() { stop(); background.Wait() })
	if err := h.Search.Start(run); err != nil {
		return nil, err
	}
	h.end = append(h.end, h.Search.Close)
	if err := h.Delayed.Start(run); err != nil {
		return nil, err
	}
	h.end = append(h.end, h.Delayed.Close)
	if err := h.Pushers.Start(run); err != nil {
		return nil, err
	}
	h.end = append(h.end, h.Pushers.Close)
	if err := h.Appservice.Start(run); err != nil {
		return nil, err
	}
	h.end = append(h.end, h.Appservice.Close)
	if err := administration.Start(run); err != nil {
		return nil, err
	}
	h.end = append(h.end, work.Close)
	if h.GroupRooms != nil {
		h.GroupRooms.Start(run)
		h.end = append(h.end, h.GroupRooms.Close)
	}
	return h, nil
}

// mailOf is the mailer as package account sees it: a nil interface without one.
func mailOf(o Options) account.Mailer {
	if o.Mail == nil {
		return nil
	}
	return o.Mail
}

// mails is what pushers by e-mail need.
func mails(o Options) pusher.Mail {
	if o.Mail == nil {
		return pusher.Mail{}
	}
	site := o.Site
	if site == nil {
		site = func() string { return "https://" + o.ServerName }
	}
	text := o.Text
	if text == nil {
		text = func(_, key string) string { return key }
	}
	return pusher.Mail{Mailer: o.Mail, ServerName: o.ServerName, Site: site, Text: text, Wait: o.MailWait, Pause: o.MailPause,
		Link: func(id int64, secret string) string { return account.UnsubscribeLink(site(), id, secret) },
		Owns: func(ctx context.Context, userID, address string) (string, bool, error) {
			to, err := o.Accounts.CanonicalEmail(address)
			var refused *mx.Error
			if errors.As(err, &refused) {
				return "", false, nil
			}
			if err != nil {
				return "", false, err
			}
			list, err := o.Accounts.Emails(ctx, userID)
			return to, slices.ContainsFunc(list, func(e account.Email) bool { return e.Address == to }), err
		}}
}

// Routes are the operations that Handler answers.
func (h *Homeserver) Routes() []route.Route { return h.routes }

// Federation answers other servers, for the federation listener.
func (h *Homeserver) Federation() http.Handler { return h.federation }

// Handler answers /_matrix/, /_synapse/, /.well-known/matrix/ and /livekit/jwt/.
func (h *Homeserver) Handler() http.Handler { return h.server }

// Close ends what runs.
func (h *Homeserver) Close() {
	for i := len(h.end) - 1; i >= 0; i-- {
		h.end[i]()
	}
	h.end = nil
}

// UpsertDevice, DeleteDevice and SetDisplayName serve the identity provider.

// UpsertDevice adds a device for a new session. Errors: Forbidden for an ID that is
// a cross-signing key's. Spec: cs#post_matrixclientv3login
func (h *Homeserver) UpsertDevice(tx *store.Tx, userID, deviceID, displayName string) error {
	if clash, err := h.E2EE.IsPublicKey(tx, userID, deviceID); err != nil || clash {
		if err == nil {
			err = mx.Errorf(mx.Forbidden, "The device ID is that of a cross-signing key. Choose another.")
		}
		return err
	}
	return h.Devices.Upsert(tx, userID, deviceID, displayName)
}

// DeleteDevice removes a device whose session ended.
func (h *Homeserver) DeleteDevice(tx *store.Tx, userID, deviceID string) error {
	return h.Devices.Delete(tx, userID, deviceID)
}

// LeaveAll takes a user whose account was closed out of all rooms, refuses their
// invites, withdraws their knocks, and removes what was the user's alone: profile,
// account data, keys and key backups. It goes on after an error and returns them all.
func (h *Homeserver) LeaveAll(ctx context.Context, userID string) error {
	var list []rooms.Member
	err := h.db.Read(ctx, func(q store.Querier) (err error) {
		list, err = h.Rooms.Rooms(q, userID, mx.Join, mx.Invite, mx.Knock)
		return err
	})
	for _, m := range list {
		err = errors.Join(err, h.Rooms.Leave(ctx, m.RoomID, userID, ""))
		var whose string
		err = errors.Join(err, h.db.Read(ctx, func(q store.Querier) (err error) {
			whose, err = h.Rooms.NoticesOf(q, m.RoomID)
			return err
		}))
		if whose == userID { // nobody is told anything there any more
			err = errors.Join(err, h.Rooms.Leave(ctx, m.RoomID, h.Rooms.NoticesUser(), ""))
		}
	}
	return errors.Join(err, h.db.Write(ctx, func(tx *store.Tx) error {
		return errors.Join(h.Devices.DeleteAll(tx, userID, ""), h.E2EE.Deactivated(tx, userID), h.Userdata.Deactivated(tx, userID), h.Ephemeral.Deactivated(tx, userID),
			h.Rooms.DropDepartures(tx, userID), h.Delayed.Drop(tx, userID), h.Pushers.Deactivated(tx, userID), h.Phones.Deactivated(tx, userID), h.Threads.Deactivated(tx, userID), h.Calls.DropTokens(tx, userID))
	}))
}

// Locked is told that an account was locked or unlocked. A locked one's user is taken
// out of all calls, no notifications are pushed to it, and its phones are cut off.
// Access tokens are refused by whoever gives them out.
func (h *Homeserver) Locked(ctx context.Context, userID string, locked bool) error {
	h.Pushers.Reload(userID)
	if !locked {
		return nil
	}
	h.Phones.Disconnect(userID)
	return h.Calls.Locked(ctx, userID)
}

// Suspended is told that an account was suspended or restored. The user of a suspended
// one is taken out of all calls: to be heard there is to send. Notifications go on, as
// reading does.
func (h *Homeserver) Suspended(userID string, suspended bool) {
	if suspended {
		h.Calls.Suspended(userID)
	}
}

// lockedOut reports whether a user may not even read, by what Options.Standing says.
func lockedOut(standing error) (bool, error) {
	var refused *mx.Error
	if !errors.As(standing, &refused) {
		return false, standing
	}
	return refused.Code != mx.UserSuspended, nil
}

// endsSomething reports whether a delayed event takes something back, as the leave of
// a call does, which is state without content. It is sent whatever became of the
// account meanwhile.
func endsSomething(e delayed.Event) bool {
	return e.StateKey != nil && bytes.Equal(bytes.TrimSpace(e.Content), []byte("{}"))
}

// SetDisplayName makes the profile of a new account.
func (h *Homeserver) SetDisplayName(tx *store.Tx, userID, displayName string) error {
	return h.Userdata.Create(tx, userID, displayName)
}

func profile(q store.Querier, userID string) (displayName, avatarURL string, err error) {
	p, err := userdata.LoadProfile(q, userID)
	if errors.Is(err, store.ErrNotFound) {
		return "", "", nil
	}
	return p.DisplayName, p.AvatarURL, err
}

// userExists reports whether a local user has an account: each has a profile.
func userExists(q store.Querier, userID string) (bool, error) {
	_, err := userdata.LoadProfile(q, userID)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// appRooms shows application services the rooms.
type appRooms struct {
	*rooms.Rooms
	timeline *timeline.Timeline
}

func (a appRooms) Event(q store.Querier, pos int64) (mx.Raw, error) {
	e, err := a.EventAt(q, pos)
	if errors.Is(err, store.ErrNotFound) { // perhaps the end of a membership of a room that was deleted
		e, err = a.DepartureAt(q, pos)
	}
	if err != nil {
		return nil, err
	}
	return a.timeline.Plain(q, e)
}

// appEphemeral shows application services what passes.
type appEphemeral struct{ *ephemeral.Service }

func (a appEphemeral) ReceiptsAfter(q store.Querier, from, to int64, limit int) ([]appservice.Receipt, error) {
	list, err := a.Service.ReceiptsAfter(q, from, to, limit)
	out := make([]appservice.Receipt, len(list))
	for i, r := range list {
		out[i] = appservice.Receipt(r)
	}
	return out, err
}

// askUser has an application service make a user of its namespace who is wanted
// and has no account yet.
func (h *Homeserver) askUser(ctx context.Context, userID string) error {
	if mx.Domain(userID) != h.Rooms.ServerName() || !h.Appservice.Asks(userID) {
		return nil
	}
	var known bool
	err := h.db.Read(ctx, func(q store.Querier) (err error) {
		known, err = userExists(q, userID)
		return err
	})
	if err != nil || known {
		return err
	}
	_, err = h.Appservice.AskUser(ctx, userID)
	return err
}

// roomReplaced carries a user's settings over to the room that replaces another,
// when the user joins it; of the one who replaces it, when the old room says so. A
// room that merely claims to replace another gets nothing.
func (h *Homeserver) roomReplaced(tx *store.Tx, e *rooms.Event) error {
	if e.StateKey == nil || mx.Domain(e.Sender) != h.Rooms.ServerName() {
		return nil
	}
	var userID, newID string
	switch {
	case e.Type == mx.RoomMember && e.Membership() == mx.Join && *e.StateKey == e.Sender:
		if e.Replaces > 0 {
			before, err := h.Rooms.EventAt(tx, e.Replaces)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err == nil && before.Membership() == mx.Join {
				return nil
			}
		}
		userID, newID = e.Sender, e.RoomID
	case e.Type == mx.RoomTombstone && *e.StateKey == "":
		userID, newID = e.Sender, e.ContentString("replacement_room")
		if m, err := h.Rooms.Membership(tx, newID, userID); err != nil || m != mx.Join {
			return err
		}
	default:
		return nil
	}
	content := func(roomID, typ string) ([]byte, error) {
		e, err := h.Rooms.State(tx, roomID, typ, "")
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return e.Content, nil
	}
	create, err := content(newID, mx.RoomCreate)
	if err != nil {
		return err
	}
	oldID := pdu.FieldString(pdu.Field(create, "predecessor"), "room_id")
	if oldID == "" {
		return nil
	}
	tombstone, err := content(oldID, mx.RoomTombstone)
	if err != nil || pdu.FieldString(tombstone, "replacement_room") != newID {
		return err
	}
	return h.Userdata.RoomReplaced(tx, userID, oldID, newID)
}

// delayedLimits is the capability that tells the bounds of delayed events. Spec: MSC4140
func delayedLimits(d *delayed.Service) map[string]any {
	delay, scheduled := d.Limits()
	limits := map[string]int64{"max_delay_ms": delay.Milliseconds(), "max_scheduled": int64(scheduled)}
	return map[string]any{"m.delayed_events": limits, "org.matrix.msc4140.delayed_events": limits}
}

// capabilities are those that parts have. Spec: MSC4140, MSC4452
func (h *Homeserver) capabilities() map[string]any {
	caps := delayedLimits(h.Delayed)
	caps["io.element.msc4452.preview_url"] = map[string]bool{"enabled": h.Files.PreviewsOn()}
	return caps
}

// callServers asks other servers about their users, in the words of package calls.
type callServers struct{ *federation.Client }

func (c callServers) Userinfo(ctx context.Context, server, token string) (string, error) {
	userID, err := c.Client.Userinfo(ctx, server, token)
	if errors.Is(err, federation.ErrUnknownThere) {
		err = calls.ErrUnknownThere
	}
	return userID, err
}

func remoteCalls(o Options) calls.Remote {
	if len(o.CallServers) == 0 {
		return nil
	}
	return callServers{federation.NewClient(o.CallServers, cmp.Or(o.Named, o.Client), o.CallRoots)}
}
