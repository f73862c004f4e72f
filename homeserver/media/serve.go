package media

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/blob"
)

// Bounds of waiting.
const (
	defaultTimeout = 20 * time.Second // how long a download waits for an upload
	maxTimeout     = 60 * time.Second
)

// load finds media of this server that may be served or uploaded; quarantined: also
// what is in quarantine.
func (s *Service) load(q store.Querier, server, id string, quarantined bool) (record, error) {
	if server != s.o.ServerName {
		return record{}, mx.Errorf(mx.NotFound, "This server does not fetch media from %.255s.", server)
	}
	m, err := loadMedia(q, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return m, errNoMedia
	case err != nil:
		return m, err
	case m.QuarantinedBy != "" && !quarantined:
		return m, errNoMedia
	case m.Hash == "" && m.Expires < s.o.Now().UnixMilli():
		return m, mx.Errorf(mx.NotFound, "This media ID has expired. Its content was not uploaded in time.")
	}
	return m, nil
}

// find is load of what a request asks for. It waits for content that is on its way.
func (s *Service) find(ctx context.Context, r *route.Request, quarantined bool) (record, error) {
	wait, err := timeout(r.Query("timeout_ms"))
	if err != nil {
		return record{}, err
	}
	id := r.Param("mediaID")
	get := func() (m record, err error) {
		err = s.o.DB.Read(ctx, func(q store.Querier) error {
			m, err = s.load(q, r.Param("serverName"), id, quarantined)
			return err
		})
		if err == nil && r.Route.Auth == route.None && m.Created >= s.settings().OpenBefore.UnixMilli() {
			// Spec: cs#content-repo-client-behaviour, v1.11
			err = mx.Errorf(mx.NotFound, "This media is only given to signed-in people, at /_matrix/client/v1/media.")
		}
		if err == nil && m.Hash != "" {
			s.note(m)
		}
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

// inline are the types that a browser may show itself; all others are saved.
// Spec: cs#serving-inline-content
var inline = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true, "audio/wave": true,
	"audio/wav": true, "audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

// disposition tells the browser to show or to save, and under which name.
func disposition(contentType, name string) string {
	kind := "attachment"
	t, _, _ := strings.Cut(contentType, ";")
	if inline[strings.ToLower(strings.TrimSpace(t))] {
		kind = "inline"
	}
	if name == "" {
		return kind
	}
	if d := mime.FormatMediaType(kind, map[string]string{"filename": name}); d != "" {
		return d
	}
	return kind
}

// download serves a file, also in ranges. Spec: cs#get_matrixclientv1mediadownloadservernamemediaid
func (s *Service) download(ctx context.Context, r *route.Request) (any, error) {
	// An administrator has to see what was quarantined, to judge it; tools ask like this.
	m, err := s.find(ctx, r, r.Admin && r.Query("admin_unsafely_bypass_quarantine") == "true")
	if err != nil {
		return nil, err
	}
	if m.QuarantinedBy != "" {
		s.o.Log.Info("an administrator acted", "administrator", r.UserID, "operation", "downloadQuarantined", "mediaID", m.ID)
	}
	name := m.Name
	if over := r.Param("fileName"); over != "" {
		name = fileName(over)
	}
	return s.content(m.Hash, m.Type, name)
}

// open opens a blob. Errors: mx.NotFound.
func (s *Service) open(hash string) (*os.File, error) {
	f, err := s.o.Blobs.Open(hash)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, &mx.Error{Code: mx.NotFound, Msg: "The content of this media is no longer here.", Err: err}
	}
	return f, err
}

// content serves a blob. Spec: cs#content-repository, cs#serving-inline-content
func (s *Service) content(hash, contentType, name string) (any, error) {
	f, err := s.open(hash)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer f.Close()
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Disposition", disposition(contentType, name))
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; media-src 'self'; object-src 'self';")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "private, max-age=86400, immutable")
		h.Set("ETag", `"`+hash+`"`)
		h.Set("Access-Control-Expose-Headers", "ETag, Retry-After, Accept-Ranges, Content-Disposition, Content-Length, Content-Range")
		http.ServeContent(&ranged{ResponseWriter: w, r: r, log: s.o.Log}, r, "", time.Time{}, f)
	}), nil
}

// ranged answers a range that is not in the file as any other error is answered.
type ranged struct {
	http.ResponseWriter
	r       *http.Request
	log     *slog.Logger
	refused bool
}

func (w *ranged) WriteHeader(status int) {
	if status != http.StatusRequestedRangeNotSatisfiable {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	for _, h := range []string{"Content-Disposition", "Cache-Control", "ETag", "Content-Length"} {
		w.Header().Del(h)
	}
	route.WriteError(w.ResponseWriter, w.r, w.log, &mx.Error{Code: mx.InvalidParam, Msg: "The file does not have the range that was asked for.", Status: status})
}

func (w *ranged) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom lets the kernel copy the file.
func (w *ranged) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// Unwrap serves http.ResponseController.
func (w *ranged) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// timeout reads timeout_ms. Spec: cs#get_matrixclientv1mediadownloadservernamemediaid
func timeout(s string) (time.Duration, error) {
	if s == "" {
		return defaultTimeout, nil
	}
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms < 0 {
		return 0, mx.Errorf(mx.InvalidParam, "timeout_ms must be a number of milliseconds.")
	}
	return min(time.Duration(ms)*time.Millisecond, maxTimeout), nil
}

// arrivals wakes downloads that wait for an upload.
type arrivals struct {
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool
}

// wait returns a channel that is closed when the content of id is there.
func (a *arrivals) wait(id string) (<-chan struct{}, func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		a.waiting = map[string]map[chan struct{}]bool{}
	}
	if a.waiting[id] == nil {
		a.waiting[id] = map[chan struct{}]bool{}
	}
	c := make(chan struct{})
	a.waiting[id][c] = true
	return c, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if m := a.waiting[id]; m != nil {
			delete(m, c)
			if len(m) == 0 {
				delete(a.waiting, id)
			}
		}
	}
}

func (a *arrivals) publish(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.waiting[id] {
		close(c)
	}
	delete(a.waiting, id)
}
