package media

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/blob"
)

// Bounds of uploads.
const (
	maxWaiting  = 50             // created IDs of a user that wait for their content
	waitLimit   = 24 * time.Hour // how long a created ID waits
	maxFileName = 255            // bytes
	maxTypeLen  = 255            // bytes
)

// mayUpload refuses who may not upload. Spec: cs#account-suspension
func mayUpload(r *route.Request) error {
	if r.Suspended {
		return mx.Errorf(mx.UserSuspended, "Your account is suspended: you cannot upload files.")
	}
	return nil
}

// upload stores a file. Spec: cs#post_matrixmediav3upload
func (s *Service) upload(ctx context.Context, r *route.Request) (any, error) {
	if err := mayUpload(r); err != nil {
		return nil, err
	}
	m := record{ID: newID(), User: r.UserID}
	err := s.receive(ctx, r, &m, func(tx *store.Tx) error { return insertMedia(tx, m) })
	if err != nil {
		return nil, err
	}
	return map[string]string{"content_uri": s.URI(m.ID)}, nil
}

// create makes an ID whose content comes later. Spec: cs#post_matrixmediav1create
func (s *Service) create(ctx context.Context, r *route.Request) (any, error) {
	if err := mayUpload(r); err != nil {
		return nil, err
	}
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
	return map[string]any{"content_uri": s.URI(m.ID), "unused_expires_at": m.Expires}, nil
}

// uploadTo gives a created ID its content. Spec: cs#put_matrixmediav3uploadservernamemediaid
func (s *Service) uploadTo(ctx context.Context, r *route.Request) (any, error) {
	if err := mayUpload(r); err != nil {
		return nil, err
	}
	id := r.Param("mediaID")
	check := func(q store.Querier) (record, error) {
		m, err := s.load(q, r.Param("serverName"), id, false)
		switch {
		case err != nil:
			return m, err
		case m.User != r.UserID:
			return m, mx.Errorf(mx.Forbidden, "Another user created this media ID.")
		case m.Hash != "":
			return m, mx.Errorf(mx.CannotOverwriteMedia, "This media ID has its content already.")
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
	err = s.receive(ctx, r, &m, func(tx *store.Tx) error {
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

// receive streams the request's body into a blob, fills in the record and has it
// stored by save, if the quotas allow it.
func (s *Service) receive(ctx context.Context, r *route.Request, m *record, save func(*store.Tx) error) error {
	set := s.settings()
	if r.ContentLength > set.MaxUpload {
		return tooLarge(set)
	}
	var own, all int64
	err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		own, all, err = used(q, r.UserID)
		return err
	})
	if err != nil {
		return err
	}
	body := &counted{r: r.Body, take: func(n int64) error { return s.space.take(r.UserID, n, own, all, set) }}
	defer func() { s.space.give(r.UserID, body.taken) }()
	if err := body.reserve(r.ContentLength); err != nil {
		return err
	}
	m.Name = fileName(r.Query("filename"))
	m.Type = contentType(r.Header.Get("Content-Type"))
	ref, release, err := s.o.Blobs.Put(ctx, body, set.MaxUpload)
	var known *mx.Error
	switch {
	case errors.Is(err, blob.ErrTooLarge):
		return tooLarge(set)
	case errors.As(err, &known):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF) || (err != nil && ctx.Err() != nil):
		return &mx.Error{Code: mx.Unknown, Msg: "The upload ended early. Send it again.", Status: http.StatusBadRequest, Err: err}
	case err != nil:
		return err
	}
	m.Hash, m.Size, m.Created = ref.Hash, ref.Size, s.o.Now().UnixMilli()
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		own, all, err := used(tx, m.User)
		if err == nil {
			err = overQuota(own+m.Size, all+m.Size, set)
		}
		if err != nil {
			return err
		}
		return save(tx)
	})
	release()
	if err != nil {
		if _, e := s.collect(context.WithoutCancel(ctx), []string{ref.Hash}); e != nil {
			s.o.Log.Warn("a file that was refused could not be deleted; it will be within a day", "err", e)
		}
	}
	return err
}

func tooLarge(set Settings) error {
	return mx.Errorf(mx.TooLarge, "The file is larger than the %d bytes that this server takes.", set.MaxUpload)
}

// overQuota says that so many bytes would be too many. Spec: cs#post_matrixmediav3upload
func overQuota(own, all int64, set Settings) error {
	switch {
	case set.UserQuota > 0 && own > set.UserQuota:
		return mx.Errorf(mx.Forbidden, "Your files would take more than the %d bytes that each person has. Ask an administrator for more, or to delete some.", set.UserQuota)
	case set.TotalQuota > 0 && all > set.TotalQuota:
		return mx.Errorf(mx.Forbidden, "The server's space for files is used up. Ask an administrator to make room.")
	}
	return nil
}

// space is what uploads that run have taken of the quotas. That stored files keep
// within them is seen to where they are stored; this keeps uploads that would be
// refused then from filling the disk before.
type space struct {
	mu  sync.Mutex
	own map[string]int64 // bytes by user
	all int64
}

func (s *space) take(userID string, n, own, all int64, set Settings) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := overQuota(own+s.own[userID]+n, all+s.all+n, set); err != nil {
		return err
	}
	if s.own == nil {
		s.own = map[string]int64{}
	}
	s.own[userID] += n
	s.all += n
	return nil
}

func (s *space) give(userID string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n == 0 { // nothing was taken yet, perhaps by nobody
		return
	}
	s.all -= n
	if s.own[userID] -= n; s.own[userID] <= 0 {
		delete(s.own, userID)
	}
}

// counted is a body that takes space as it comes.
type counted struct {
	r           io.Reader
	take        func(n int64) error
	read, taken int64
}

func (c *counted) reserve(n int64) error {
	if n <= c.taken {
		return nil
	}
	if err := c.take(n - c.taken); err != nil {
		return err
	}
	c.taken = n
	return nil
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.read += int64(n)
	if e := c.reserve(c.read); e != nil {
		return 0, e
	}
	return n, err
}

func newID() string { return rand.Text()[:24] }

// contentType is a media type as it can be sent again: well-formed, with its
// parameters unless they are not.
func contentType(s string) string {
	t, params, err := mime.ParseMediaType(s)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return octets
	}
	if out := mime.FormatMediaType(t, params); out != "" && len(out) <= maxTypeLen {
		return out
	}
	if out := mime.FormatMediaType(t, nil); out != "" && len(out) <= maxTypeLen {
		return out
	}
	return octets
}

const octets = "application/octet-stream"

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

// Store keeps a file that the server itself has for a user: their picture in a directory,
// say. It counts among the user's files, and is taken where their quota is used up, too.
func (s *Service) Store(ctx context.Context, userID, mediaType string, content []byte) (uri string, err error) {
	ref, release, err := s.o.Blobs.Put(ctx, bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return "", err
	}
	defer release()
	m := record{ID: newID(), User: userID, Type: mediaType, Created: s.o.Now().UnixMilli(), Hash: ref.Hash, Size: ref.Size}
	if err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return insertMedia(tx, m) }); err != nil {
		return "", err
	}
	return s.URI(m.ID), nil
}
