package media

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/media/preview"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/blob"
)

// How long previews are kept, and how many.
const (
	previewMin     = time.Hour // a preview holds at least so long, whatever its host says
	previewMax     = 24 * time.Hour
	previewUsual   = 12 * time.Hour // where its host says nothing
	failureHolds   = 10 * time.Minute
	previewKept    = 7 * 24 * time.Hour // after that, for who asks for that time
	maxPreviews    = 50_000
	previewMinSide = 24 // pixels: what is smaller is there to count readers
)

// Bounds of fetching.
const (
	fetchTime   = 20 * time.Second // for a page and its picture
	queueTime   = 20 * time.Second // waiting for others to be done
	maxFetching = 8                // pages at once
	maxOfUser   = 3                // of one user's
	maxQueued   = 40               // of one user's, with those that are fetched
)

// PreviewsOn reports whether previews of links are made, for the capabilities.
func (s *Service) PreviewsOn() bool { return s.settings().Previews.On }

// preview answers what a link leads to. Spec: cs#get_matrixclientv1mediapreview_url, MSC4452
func (s *Service) preview(ctx context.Context, r *route.Request) (any, error) {
	if !s.PreviewsOn() { // fetching pages for people tells other hosts what they read
		return nil, mx.Errorf(mx.Forbidden, "Previews of links are turned off on this server.")
	}
	if r.Query("url") == "" {
		return nil, mx.Errorf(mx.MissingParam, "The parameter url is missing.")
	}
	now := s.o.Now().UnixMilli()
	at := now
	if raw := r.Query("ts"); raw != "" {
		ts, err := r.Int("ts", 0)
		if err != nil {
			return nil, err
		}
		at = min(int64(ts), now)
	}
	u, err := s.previewable(r.Query("url"))
	if err != nil {
		return nil, err
	}
	lang := preview.Language(r.Header.Get("Accept-Language"))
	for _, t := range []int64{at, now} {
		if answer, found, err := s.known(ctx, u.String(), lang, t, t == now); err != nil || found {
			return answer, err
		}
	}
	f, err := s.flights.join(u.String()+"\n"+lang, r.UserID, func(ctx context.Context, begun func(context.Context) error) (mx.Raw, error) {
		// Another may have landed since we looked.
		if answer, found, err := s.known(ctx, u.String(), lang, s.o.Now().UnixMilli(), true); err != nil || found {
			return answer, err
		}
		if err := begun(ctx); err != nil {
			return nil, err
		}
		ctx, stop := context.WithTimeout(ctx, fetchTime)
		defer stop()
		return s.fetchPreview(ctx, u, lang)
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-f.landed:
		return f.answer, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// previewable reads an address and asks the rules.
func (s *Service) previewable(raw string) (*url.URL, error) {
	u, err := preview.ParseURL(raw)
	if err == nil {
		err = s.pages.Check(u)
	}
	return u, noPreview(err)
}

// noPreview is the answer of an error of package preview.
func noPreview(err error) error {
	var e *preview.Error
	if !errors.As(err, &e) {
		return err
	}
	code := mx.NotFound
	switch e.Kind {
	case preview.BadURL:
		code = mx.InvalidParam
	case preview.Refused:
		code = mx.Forbidden
	}
	return &mx.Error{Code: code, Msg: e.Msg, Err: e.Err}
}

// known is the preview that held at a time, if there is one; a failure only if the
// time is now.
func (s *Service) known(ctx context.Context, url, lang string, at int64, now bool) (answer mx.Raw, found bool, err error) {
	var p linkPreview
	var picture record
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		if p, found, err = loadPreview(q, url, lang, at); err != nil || !found || p.MediaID == "" {
			return err
		}
		picture, err = loadMedia(q, p.MediaID)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	switch {
	case err != nil || !found || p.Failure != "" && !now:
		return nil, false, err
	case p.Failure != "":
		return nil, true, noPreview(preview.Failure(preview.Kind(p.Failure)))
	}
	if p.MediaID != "" && (picture.Hash == "" || picture.QuarantinedBy != "") { // since then
		var m map[string]any
		if err := json.Unmarshal([]byte(p.Answer), &m); err != nil {
			return nil, false, err
		}
		for k := range m {
			if strings.HasPrefix(k, "og:image") || k == "matrix:image:size" {
				delete(m, k)
			}
		}
		answer, err := json.Marshal(m)
		return answer, true, err
	}
	return mx.Raw(p.Answer), true, nil
}

// fetchPreview fetches a page and its picture, and keeps what they give. Errors:
// *mx.Error, which is kept too, and those of the disk.
func (s *Service) fetchPreview(ctx context.Context, u *url.URL, lang string) (mx.Raw, error) {
	p := linkPreview{URL: u.String(), Lang: lang}
	page, pic, err := s.fetchPage(ctx, u, lang)
	if s.flights.ctx.Err() != nil { // the server ends: that says nothing about the page
		return nil, s.flights.ctx.Err()
	}
	defer pic.release()
	now := s.o.Now()
	p.Fetched = now.UnixMilli()
	var failed *preview.Error
	switch {
	case errors.As(err, &failed):
		s.o.Log.Debug("a link has no preview", "host", u.Hostname(), "err", failed)
		p.Failure, p.Expires = string(failed.Kind), now.Add(failureHolds).UnixMilli()
		err := s.o.DB.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error { return insertPreview(tx, p) })
		if err == nil {
			err = noPreview(failed)
		}
		return nil, err
	case err != nil:
		return nil, err
	}
	holds := previewUsual
	if page.MaxAge > 0 {
		holds = min(max(page.MaxAge, previewMin), previewMax)
	}
	p.Expires = now.Add(holds).UnixMilli()
	var answer mx.Raw
	write := func(tx *store.Tx) error {
		hasImage := pic != nil
		if hasImage {
			m := record{ID: newID(), Type: pic.mediaType(), Created: now.UnixMilli(), Hash: pic.hash, Size: pic.size, Preview: true}
			if err := insertMedia(tx, m); err != nil {
				return err
			}
			stored, err := loadMedia(tx, m.ID)
			if err != nil {
				return err
			}
			p.MediaID, hasImage = m.ID, stored.QuarantinedBy == ""
		}
		out := page.Properties(hasImage)
		if hasImage {
			w, h := pic.upright()
			out["og:image"], out["og:image:type"] = s.URI(p.MediaID), pic.mediaType()
			out["og:image:width"], out["og:image:height"], out["matrix:image:size"] = w, h, pic.size
		}
		var err error
		if answer, err = json.Marshal(out); err != nil {
			return err
		}
		p.Answer = string(answer)
		return insertPreview(tx, p)
	}
	if pic != nil {
		if err := s.makeRoom(context.WithoutCancel(ctx), pic.size); err != nil {
			return nil, err
		}
	}
	err = s.o.DB.Write(context.WithoutCancel(ctx), write)
	return answer, err
}

// taken is a picture whose content is held on the disk.
type taken struct {
	picture
	hash string
	size int64
	free func()
}

func (t *taken) release() {
	if t != nil {
		t.free()
	}
}

// fetchPage fetches a page and its picture, nil if it has none. Errors: *preview.Error,
// and those of the disk.
func (s *Service) fetchPage(ctx context.Context, u *url.URL, lang string) (page preview.Page, pic *taken, err error) {
	take := func(r io.Reader) (err error) {
		pic, err = s.take(ctx, r)
		return err
	}
	page, err = s.pages.Page(ctx, u, lang, take)
	if err != nil {
		if page.Picture { // one that cannot be shown: then there is nothing
			return preview.Page{URL: page.URL}, nil, onlyDisk(err)
		}
		return page, nil, err
	}
	for _, image := range page.Images {
		if pic != nil {
			break
		}
		if err := onlyDisk(s.pages.Picture(ctx, image, lang, take)); err != nil {
			return page, nil, err
		}
	}
	return page, pic, nil
}

var errNoPicture = errors.New("this is no picture for a preview")

// onlyDisk leaves out errors that only mean that there will be no picture.
func onlyDisk(err error) error {
	var e *preview.Error
	if errors.As(err, &e) || errors.Is(err, errNoPicture) {
		return nil
	}
	return err
}

// take stores a picture that comes, if it is one. Errors: errNoPicture, and those of
// the disk.
func (s *Service) take(ctx context.Context, r io.Reader) (*taken, error) {
	in := &fromHost{r: r}
	ref, release, err := s.o.Blobs.Put(ctx, in, preview.MaxPicture)
	switch {
	case err != nil && (in.err != nil || ctx.Err() != nil || errors.Is(err, blob.ErrTooLarge)):
		return nil, errNoPicture // the host's fault
	case err != nil:
		return nil, err
	}
	t := &taken{hash: ref.Hash, size: ref.Size, free: release}
	err = s.decoding(ctx, ref.Hash, func(f source) (err error) {
		t.picture, err = inspect(f)
		return err
	})
	if err == nil && (t.decoded > maxDecoded || min(t.width, t.height) < previewMinSide) {
		err = errNoImage
	}
	if err == nil {
		return t, nil
	}
	release()
	if _, e := s.collect(context.WithoutCancel(ctx), []string{ref.Hash}); e != nil {
		s.o.Log.Warn("a file that was refused could not be deleted; it will be within a day", "err", e)
	}
	if errors.Is(err, errNoImage) || ctx.Err() != nil {
		err = errNoPicture
	}
	return nil, err
}

// fromHost remembers an error of what is read, to tell it from those of the disk.
type fromHost struct {
	r   io.Reader
	err error
}

func (s *fromHost) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// TryPreview fetches a page as the server would for somebody, keeps nothing, and tells
// what was found or the whole cause why not.
func (s *Service) TryPreview(ctx context.Context, raw string) (map[string]any, error) {
	u, err := preview.ParseURL(raw)
	if err == nil {
		err = s.pages.Check(u)
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, fetchTime)
	defer stop()
	page, pic, err := s.fetchPage(ctx, u, "")
	if err != nil {
		return nil, err
	}
	out := page.Properties(pic != nil)
	if pic != nil {
		w, h := pic.upright()
		out["og:image:type"], out["og:image:width"], out["og:image:height"], out["matrix:image:size"] = pic.mediaType(), w, h, pic.size
		pic.release()
		_, err = s.collect(context.WithoutCancel(ctx), []string{pic.hash})
	}
	return out, err
}

// PreviewsChanged is to be called when other rules hold for previews: failures are
// forgotten, and, when there are no previews any more, everything.
func (s *Service) PreviewsChanged(ctx context.Context) error {
	if err := s.o.DB.Write(ctx, deleteFailures); err != nil {
		return err
	}
	return s.expirePreviews(ctx)
}

// expirePreviews deletes what is old or too much; everything when previews are off:
// it tells what people read.
func (s *Service) expirePreviews(ctx context.Context) error {
	before := s.o.Now().Add(-previewKept).UnixMilli()
	if !s.PreviewsOn() {
		before = math.MaxInt64
	}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		many, err := surplus(q, maxPreviews)
		before = max(before, many)
		return err
	})
	if err != nil {
		return err
	}
	for {
		var list []linkPreview
		err := s.o.DB.Write(ctx, func(tx *store.Tx) (err error) {
			if list, err = oldPreviews(tx, before, someAtOnce); err != nil {
				return err
			}
			for _, p := range list {
				if err := deletePreview(tx, p); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
	}
	// Also those that a crash left without the rows above.
	var stray []string
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		stray, err = strayPictures(q)
		return err
	})
	if err != nil {
		return err
	}
	if _, err = s.Delete(ctx, stray...); err != nil {
		return err
	}
	return s.makeRoom(ctx, 0)
}

// makeRoom deletes old pictures of previews until another of a size fits in.
func (s *Service) makeRoom(ctx context.Context, size int64) error {
	limit := s.settings().Previews.Space - size
	for {
		var own int64
		var ids []string
		err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
			if own, _, err = used(q, ""); err != nil || own <= limit {
				return err
			}
			ids, err = oldPictures(q, own-limit, someAtOnce)
			return err
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		if d, err := s.Delete(ctx, ids...); err != nil || len(d.IDs) == 0 {
			return err
		}
	}
}

// flights are the pages that are being fetched: each once, whoever asks for it.
type flights struct {
	mu    sync.Mutex
	by    map[string]*flight
	users map[string]*lane
	all   chan struct{} // one token for each page that may be fetched at once
	ctx   context.Context
	end   context.CancelFunc
	wait  sync.WaitGroup
}

// flight is one page on its way. answer and err are there when landed is closed.
type flight struct {
	landed chan struct{}
	answer mx.Raw
	err    error
}

// lane is one user's part of the flights.
type lane struct {
	flights int
	all     chan struct{}
}

func (f *flights) start() {
	f.by, f.users, f.all = map[string]*flight{}, map[string]*lane{}, make(chan struct{}, maxFetching)
	f.ctx, f.end = context.WithCancel(context.Background())
}

func (f *flights) close() {
	f.mu.Lock()
	f.end() // under the lock: nobody joins any more
	f.mu.Unlock()
	f.wait.Wait()
}

// join finds the flight of a page, or has one made. fetch calls begun before it asks
// the page's host; it waits for its turn. A flight goes on when who asked for it goes
// away: others may have joined.
func (f *flights) join(key, userID string, fetch func(ctx context.Context, begun func(context.Context) error) (mx.Raw, error)) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	if fl := f.by[key]; fl != nil {
		return fl, nil
	}
	l := f.users[userID]
	if l == nil {
		l = &lane{all: make(chan struct{}, maxOfUser)}
		f.users[userID] = l
	}
	if l.flights >= maxQueued {
		return nil, &mx.Error{Code: mx.LimitExceeded, Msg: "Too many links of yours are being looked at. Try again in a moment.", RetryAfter: 5 * time.Second}
	}
	l.flights++
	fl := &flight{landed: make(chan struct{})}
	f.by[key] = fl
	f.wait.Go(func() {
		var held []chan struct{}
		defer func() {
			if v := recover(); v != nil { // what came from another host must not end the server
				fl.answer, fl.err = nil, fmt.Errorf("a preview: %v\n%s", v, debug.Stack())
			}
			for _, c := range held {
				<-c
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.by, key)
			if l.flights--; l.flights == 0 {
				delete(f.users, userID)
			}
			close(fl.landed)
		}()
		fl.answer, fl.err = fetch(f.ctx, func(ctx context.Context) error {
			timer := time.NewTimer(queueTime)
			defer timer.Stop()
			for _, c := range []chan struct{}{l.all, f.all} {
				select {
				case c <- struct{}{}:
					held = append(held, c)
				case <-timer.C:
					return &mx.Error{Code: mx.LimitExceeded, Msg: "Many links are being looked at. Try again in a moment.", RetryAfter: 10 * time.Second}
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	})
	return fl, nil
}
