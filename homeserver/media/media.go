// Package media keeps uploaded files and makes thumbnails of images.
//
// Invariants: contents are stored once by their hash and never change; a content
// whose record is on disk is there, and one that nothing names is removed; nobody
// stores more than the quotas allow, however many uploads run at once; what is in
// quarantine is served on no path, but to an administrator who asks for just that; a file is served so that a browser cannot run it
// (sandboxed, inline only for harmless types); decoding of images is bounded in
// memory, in time and in how many run at once; a thumbnail is never larger than its
// original; what is kept of other hosts' pages for previews of links is nobody's
// file, expires, and has a bound of its own.
package media

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"time"

	"holdfast/homeserver/media/preview"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/blob"
)

// Settings are what an administrator decides. Zero values of limits mean none, unless
// said otherwise.
type Settings struct {
	MaxUpload  int64 // bytes of one file; 0: DefaultMaxUpload
	UserQuota  int64 // bytes that a user may have stored
	TotalQuota int64 // bytes that all users may have stored together
	// Lifetime is how long a file is kept that nobody asks for.
	Lifetime time.Duration
	// OpenBefore is when the paths that ask for no access token were frozen: what was
	// uploaded before is served there too. Zero: nothing is.
	OpenBefore time.Time
	// Previews are of links. They are off unless On.
	Previews Previews
}

// Previews are the rules for previews of links.
type Previews struct {
	On    bool
	Rules preview.Rules
	Space int64 // bytes that their pictures may take; 0: DefaultPreviewSpace
}

// DefaultPreviewSpace is how many bytes the pictures of previews take at most.
const DefaultPreviewSpace = 1 << 30

// DefaultMaxUpload is the largest file in bytes.
const DefaultMaxUpload = 100 << 20

// Options of New.
type Options struct {
	DB         *store.DB
	Blobs      *blob.Store
	ServerName string
	Log        *slog.Logger    // nil: discarded
	Settings   func() Settings // asked at each request; nil: the defaults
	// RoomEvents gives f the events of a room that hold a text, in order. nil: none.
	RoomEvents func(q store.Querier, roomID, text string, f func(event json.RawMessage)) error
	// InUse gives f texts with the URIs of media that profiles and the state of rooms
	// show. nil: none.
	InUse func(q store.Querier, f func(text string)) error
	// PublicAddress reports whether an address is one of the Internet, for pages whose
	// links are previewed. nil: none is.
	PublicAddress func(netip.Addr) bool
	Now           func() time.Time // nil: time.Now
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct {
	o        Options
	arrived  arrivals
	accesses accesses
	space    space
	decode   chan struct{} // one token for each image that may be decoded at once
	pages    *preview.Fetcher
	flights  flights
}

// New makes the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, decode: make(chan struct{}, maxDecoding)}
	s.pages = preview.New(preview.Options{Public: o.PublicAddress, Rules: func() preview.Rules { return s.settings().Previews.Rules }})
	s.flights.start()
	return s
}

// Close ends what is fetched for previews.
func (s *Service) Close() { s.flights.close() }

func (s *Service) settings() (set Settings) {
	if s.o.Settings != nil {
		set = s.o.Settings()
	}
	if set.MaxUpload <= 0 {
		set.MaxUpload = DefaultMaxUpload
	}
	if set.Previews.Space <= 0 {
		set.Previews.Space = DefaultPreviewSpace
	}
	return set
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	const v1 = "/_matrix/client/v1/media/"
	get := func(op, path string, h route.Handler, aliases ...string) route.Route {
		return route.Route{Op: op, Auth: route.User, Limit: route.Reads, Pattern: "GET " + path, Aliases: aliases, Handle: h}
	}
	open := func(op, path string, h route.Handler) route.Route {
		return route.Route{Op: op, Auth: route.None, Limit: route.Reads, Pattern: "GET /_matrix/media/v3/" + path,
			Aliases: []string{"/_matrix/media/r0/" + path, "/_matrix/media/v1/" + path}, Handle: h}
	}
	return []route.Route{
		{Op: "uploadContent", Auth: route.User, Limit: route.Uploads, MaxBody: -1, Handle: s.upload,
			Pattern: "POST /_matrix/media/v3/upload", Aliases: []string{"/_matrix/media/r0/upload", "/_matrix/media/v1/upload"}},
		{Op: "createContent", Auth: route.User, Limit: route.Uploads, Handle: s.create,
			Pattern: "POST /_matrix/media/v1/create", Aliases: []string{"/_matrix/media/unstable/fi.mau.msc2246/create"}},
		{Op: "uploadContentToMXC", Auth: route.User, Limit: route.Uploads, MaxBody: -1, Handle: s.uploadTo,
			Pattern: "PUT /_matrix/media/v3/upload/{serverName}/{mediaID}", Aliases: []string{"/_matrix/media/unstable/fi.mau.msc2246/upload/{serverName}/{mediaID}"}},
		get("getContentAuthed", v1+"download/{serverName}/{mediaID}", s.download),
		get("getContentOverrideNameAuthed", v1+"download/{serverName}/{mediaID}/{fileName}", s.download),
		get("getContentThumbnailAuthed", v1+"thumbnail/{serverName}/{mediaID}", s.thumbnail),
		get("getConfigAuthed", v1+"config", s.config),
		get("getConfig", "/_matrix/media/v3/config", s.config, "/_matrix/media/r0/config"),
		{Op: "getUrlPreviewAuthed", Auth: route.User, Limit: route.Previews, Pattern: "GET " + v1 + "preview_url", Handle: s.preview,
			Aliases: []string{"/_matrix/client/unstable/org.matrix.msc3916/media/preview_url"}},
		{Op: "getUrlPreview", Auth: route.User, Limit: route.Previews, Pattern: "GET /_matrix/media/v3/preview_url", Handle: s.preview,
			Aliases: []string{"/_matrix/media/r0/preview_url", "/_matrix/media/v1/preview_url"}},
		open("getContent", "download/{serverName}/{mediaID}", s.download),
		open("getContentOverrideName", "download/{serverName}/{mediaID}/{fileName}", s.download),
		open("getContentThumbnail", "thumbnail/{serverName}/{mediaID}", s.thumbnail),
	}
}

// config answers the largest upload. Spec: cs#get_matrixclientv1mediaconfig
func (s *Service) config(context.Context, *route.Request) (any, error) {
	return map[string]any{"m.upload.size": s.settings().MaxUpload}, nil
}
