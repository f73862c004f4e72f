// Package media keeps uploaded files and makes thumbnails of images.
//
// Invariants: contents are stored once by their hash and never change; a file is
// served so that a browser cannot run it (sandboxed, inline only for harmless
// types); decoding of images is bounded in pixels and in how many run at once;
// a thumbnail is never larger than its original.
package media

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/blob"
)

// Defaults and bounds.
const (
	DefaultMaxUpload = 100 << 20        // bytes of one file
	maxWaiting       = 50               // created IDs of a user that wait for their content
	waitLimit        = 24 * time.Hour   // how long a created ID waits
	defaultTimeout   = 20 * time.Second // how long a download waits for an upload
	maxTimeout       = 60 * time.Second
	maxFileName      = 255 // bytes
)

// Options of New. Zero values of the limits mean the defaults.
type Options struct {
	DB         *store.DB
	Blobs      *blob.Store
	ServerName string
	Log        *slog.Logger // nil: discarded
	// MaxUpload is the largest file in bytes.
	MaxUpload int64
	// UserQuota is how many bytes a user may have stored; 0: no bound.
	UserQuota int64
	Now       func() time.Time // nil: time.Now
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct {
	o       Options
	arrived arrivals
	decode  chan struct{} // one token for each image that may be decoded at once
}

// New makes the service.
func New(o Options) *Service {
	if o.MaxUpload <= 0 {
		o.MaxUpload = DefaultMaxUpload
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, decode: make(chan struct{}, maxDecoding)}
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	const v1 = "/_matrix/client/v1/media/"
	get := func(op, path string, h route.Handler, aliases ...string) route.Route {
		return route.Route{Op: op, Auth: route.User, Limit: route.Reads, Pattern: "GET " + path, Aliases: aliases, Handle: h}
	}
	frozen := func(op, path string) route.Route {
		return route.Route{Op: op, Auth: route.None, Pattern: "GET /_matrix/media/v3/" + path,
			Aliases: []string{"/_matrix/media/r0/" + path, "/_matrix/media/v1/" + path}, Handle: s.frozen}
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
		get("getUrlPreviewAuthed", v1+"preview_url", s.preview),
		get("getUrlPreview", "/_matrix/media/v3/preview_url", s.preview),
		frozen("getContent", "download/{serverName}/{mediaID}"),
		frozen("getContentOverrideName", "download/{serverName}/{mediaID}/{fileName}"),
		frozen("getContentThumbnail", "thumbnail/{serverName}/{mediaID}"),
	}
}

// config answers the largest upload. Spec: cs#get_matrixclientv1mediaconfig
func (s *Service) config(context.Context, *route.Request) (any, error) {
	return map[string]any{"m.upload.size": s.o.MaxUpload}, nil
}

// preview refuses: fetching pages for people tells other hosts what they read.
// Clients see the same in GET /capabilities (MSC4452).
func (s *Service) preview(context.Context, *route.Request) (any, error) {
	return nil, mx.Errorf(mx.Forbidden, "Previews of links are turned off on this server.")
}

// frozen answers the unauthenticated downloads, which have no media of ours.
// Spec: cs#content-repo-client-behaviour, v1.11
func (s *Service) frozen(context.Context, *route.Request) (any, error) {
	return nil, mx.Errorf(mx.NotFound, "Media of this server is only given to signed-in people, at /_matrix/client/v1/media.")
}

// upload stores a file. Spec: cs#post_matrixmediav3upload
func (s *Service) upload(ctx context.Context, r *route.Request) (any, error) {
	m := record{ID: newID(), User: r.UserID, Created: s.o.Now().UnixMilli()}
	if err := s.receive(ctx, r, &m); err != nil {
		return nil, err
	}
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return insertMedia(tx, m) })
	if err != nil {
		return nil, err
	}
	return map[string]string{"content_uri": "mxc://" + s.o.ServerName + "/" + m.ID}, nil
}

// create makes an ID whose content comes later. Spec: cs#post_matrixmediav1create
func (s *Service) create(ctx context.Context, r *route.Request) (any, error) {
	now := s.o.Now()
	m := record{ID: newID(), User: r.UserID, Created: now.UnixMilli(), Expires: now.Add(waitLimit).UnixMilli()}
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := deleteExpired(tx, now.UnixMilli()); err != nil {
			return err
		}
		n, err := countWaiting(tx, r.UserID)
		if err != nil {
			return err
		}
		if n >= maxWaiting {
			return &mx.Error{Code: mx.LimitExceeded, Msg: "Too many uploads were announced and not sent. Send or let expire some of them first.", RetryAfter: time.Minute}
		}
		return insertMedia(tx, m)
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{"content_uri": "mxc://" + s.o.ServerName + "/" + m.ID, "unused_expires_at": m.Expires}, nil
}

// uploadTo gives a created ID its content. Spec: cs#put_matrixmediav3uploadservernamemediaid
func (s *Service) uploadTo(ctx context.Context, r *route.Request) (any, error) {
	id := r.Param("mediaID")
	check := func(q store.Querier) (record, error) {
		m, err := s.load(q, r.Param("serverName"), id)
		switch {
		case err != nil:
			return m, err
		case m.User != r.UserID:
			return m, mx.Errorf(mx.Forbidden, "Another user created this media ID.")
		case m.Hash != "":
			return m, mx.Errorf(mx.CannotOverwriteMedia, "This media ID has its content already.")
		case m.Expires < s.o.Now().UnixMilli():
			return m, mx.Errorf(mx.NotFound, "This media ID has expired. Create a new one.")
		}
		return m, nil
	}
	var m record
	err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		m, err = check(q)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.receive(ctx, r, &m); err != nil {
		return nil, err
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := check(tx); err != nil {
			return err
		}
		tx.AfterCommit(func() { s.arrived.publish(id) })
		return fillMedia(tx, m)
	})
	if err != nil {
		return nil, err
	}
	return route.Empty{}, nil
}

// receive streams the request's body into a blob and fills in the record.
func (s *Service) receive(ctx context.Context, r *route.Request, m *record) error {
	if r.ContentLength > s.o.MaxUpload {
		return s.tooLarge()
	}
	if s.o.UserQuota > 0 {
		var used int64
		err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
			used, err = usedBytes(q, r.UserID)
			return err
		})
		if err != nil {
			return err
		}
		if used+max(r.ContentLength, 0) > s.o.UserQuota {
			return mx.Errorf(mx.TooLarge, "Your files would take more than the %d bytes that each person has. Delete some, or ask an administrator.", s.o.UserQuota)
		}
	}
	m.Name = fileName(r.Query("filename"))
	m.Type = contentType(r.Header.Get("Content-Type"))
	ref, err := s.o.Blobs.Put(ctx, r.Body, s.o.MaxUpload)
	switch {
	case errors.Is(err, blob.ErrTooLarge):
		return s.tooLarge()
	case errors.Is(err, io.ErrUnexpectedEOF) || (err != nil && ctx.Err() != nil):
		return &mx.Error{Code: mx.Unknown, Msg: "The upload ended early. Send it again.", Status: http.StatusBadRequest, Err: err}
	case err != nil:
		return err
	}
	m.Hash, m.Size = ref.Hash, ref.Size
	return nil
}

func (s *Service) tooLarge() error {
	return mx.Errorf(mx.TooLarge, "The file is larger than the %d bytes that this server takes.", s.o.MaxUpload)
}

// load finds media of this server.
func (s *Service) load(q store.Querier, server, id string) (record, error) {
	if server != s.o.ServerName {
		return record{}, mx.Errorf(mx.NotFound, "This server does not fetch media from %.255s.", server)
	}
	m, err := loadMedia(q, id)
	if errors.Is(err, store.ErrNotFound) {
		return m, mx.Errorf(mx.NotFound, "There is no such media.")
	}
	return m, err
}

// find is load, and waits for content that is on its way.
func (s *Service) find(ctx context.Context, r *route.Request) (record, error) {
	wait, err := timeout(r.Query("timeout_ms"))
	if err != nil {
		return record{}, err
	}
	id := r.Param("mediaID")
	get := func() (m record, err error) {
		err = s.o.DB.Read(ctx, func(q store.Querier) error {
			m, err = s.load(q, r.Param("serverName"), id)
			return err
		})
		return m, err
	}
	m, err := get()
	if err != nil || m.Hash != "" {
		return m, err
	}
	arrived, cancel := s.arrived.wait(id)
	defer cancel()
	if m, err = get(); err != nil || m.Hash != "" { // it may have come before we waited
		return m, err
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-arrived:
		return get()
	case <-t.C:
		return m, mx.Errorf(mx.NotYetUploaded, "The content of this media has not been uploaded yet. Try again later.")
	case <-ctx.Done():
		return m, ctx.Err()
	}
}

func newID() string { return rand.Text()[:24] }

// contentType keeps a well-formed media type with its charset and drops the rest.
func contentType(s string) string {
	t, params, err := mime.ParseMediaType(s)
	if err != nil || len(t) > 127 {
		return "application/octet-stream"
	}
	keep := map[string]string{}
	if c, ok := params["charset"]; ok && len(c) < 32 {
		keep["charset"] = c
	}
	if out := mime.FormatMediaType(t, keep); out != "" {
		return out
	}
	return "application/octet-stream"
}

// fileName makes a name that is only a name: no folders, no control characters.
func fileName(s string) string {
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
			return -1
		}
		return r
	}, s)
	for len(s) > maxFileName {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
