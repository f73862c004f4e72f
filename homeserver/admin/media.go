package admin

import (
	"context"
	"slices"
	"strings"

	"holdfast/homeserver/media"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// file is media of this server as tools know it.
type file struct {
	ID            string  `json:"media_id"`
	Type          string  `json:"media_type"`
	Length        int64   `json:"media_length"`
	Name          *string `json:"upload_name"`
	CreatedTS     int64   `json:"created_ts"`
	AccessedTS    *int64  `json:"last_access_ts"`
	QuarantinedBy *string `json:"quarantined_by"`
	Safe          bool    `json:"safe_from_quarantine"`
}

type fileInfo struct {
	file
	Origin        string  `json:"media_origin"`
	UserID        string  `json:"user_id"`
	FilesystemID  string  `json:"filesystem_id"`
	URLCache      *string `json:"url_cache"`
	Authenticated bool    `json:"authenticated"`
	SHA256        *string `json:"sha256"`
}

func toFile(f media.File) file {
	out := file{ID: f.ID, Type: f.Type, Length: f.Size, Name: text(f.Name), CreatedTS: f.Created, QuarantinedBy: text(f.QuarantinedBy), Safe: f.Protected}
	if f.Accessed > 0 {
		out.AccessedTS = &f.Accessed
	}
	return out
}

func (s *Service) filesPage(r *route.Request) (p media.Page, err error) {
	q := &query{r: r}
	p.From, p.Limit = q.page()
	p.OrderBy = r.Query("order_by")
	p.Backwards = q.oneOf("dir", "f", "b") == "b"
	if p.OrderBy == "" && r.Query("dir") != "" {
		p.OrderBy = "created_ts"
	}
	return p, q.err
}

func (s *Service) userMedia(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	p, err := s.filesPage(r)
	if err != nil {
		return nil, err
	}
	list, total, err := s.o.Files.UserFiles(ctx, u.UserID, p)
	if err != nil {
		return nil, err
	}
	files := make([]file, len(list))
	for i, f := range list {
		files[i] = toFile(f)
	}
	out := map[string]any{"media": files, "total": total}
	if next := p.From + len(list); len(list) > 0 && int64(next) < total {
		out["next_token"] = next
	}
	return out, nil
}

type deletedMedia struct {
	IDs   []string `json:"deleted_media"`
	Total int      `json:"total"`
}

func toDeleted(d media.Deleted) deletedMedia {
	if d.IDs == nil {
		d.IDs = []string{}
	}
	return deletedMedia{d.IDs, len(d.IDs)}
}

func (s *Service) deleteUserMedia(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	p, err := s.filesPage(r)
	if err != nil {
		return nil, err
	}
	d, err := s.o.Files.DeleteUser(ctx, u.UserID, p)
	return toDeleted(d), err
}

// ours refuses media of other servers, of which there are no copies here.
func (s *Service) ours(r *route.Request) (string, error) {
	if r.Param("serverName") != s.o.ServerName {
		return "", mx.Errorf(mx.InvalidParam, "This server keeps media of its own only. Use %s as the server name.", s.o.ServerName)
	}
	return r.Param("mediaID"), nil
}

func (s *Service) mediaInfo(ctx context.Context, r *route.Request) (any, error) {
	if r.Param("serverName") != s.o.ServerName {
		return nil, mx.Errorf(mx.NotFound, "This server has no media of %.255s.", r.Param("serverName"))
	}
	f, err := s.o.Files.File(ctx, r.Param("mediaID"))
	if err != nil {
		return nil, err
	}
	return map[string]any{"media_info": fileInfo{file: toFile(f), Origin: s.o.ServerName, UserID: f.UserID, FilesystemID: f.ID, Authenticated: true, SHA256: text(f.Hash)}}, nil
}

func (s *Service) deleteMedia(ctx context.Context, r *route.Request) (any, error) {
	id, err := s.ours(r)
	if err != nil {
		return nil, err
	}
	if _, err := s.o.Files.File(ctx, id); err != nil {
		return nil, err
	}
	d, err := s.o.Files.Delete(ctx, id)
	return toDeleted(d), err
}

// sinceSeconds is where a time in milliseconds is surely meant: a smaller one is taken
// for seconds, by mistake, and would delete far too little, or everything.
const sinceSeconds = 30_000_000_000

func (s *Service) deleteOldMedia(ctx context.Context, r *route.Request) (any, error) {
	if name := r.Param("serverName"); name != "" && name != s.o.ServerName {
		return nil, mx.Errorf(mx.InvalidParam, "This server keeps media of its own only.")
	}
	if !r.QueryValues().Has("before_ts") {
		return nil, mx.Errorf(mx.MissingParam, "before_ts is missing.")
	}
	q := &query{r: r}
	o := media.Old{Before: q.number("before_ts", 0), MinSize: q.number("size_gt", 0), KeepUsed: q.flagOr("keep_profiles", true), KeepSpecial: true}
	if o.Before < sinceSeconds {
		q.fail("before_ts is a time in milliseconds; this one was in 1970.")
	}
	if q.err != nil {
		return nil, q.err
	}
	if r.QueryValues().Has("size_gt") {
		o.MinSize++
	}
	d, err := s.o.Files.DeleteOld(ctx, o)
	return toDeleted(d), err
}

// purgeRemote deletes copies of media of other servers, of which there are none.
func (s *Service) purgeRemote(_ context.Context, r *route.Request) (any, error) {
	if !r.QueryValues().Has("before_ts") {
		return nil, mx.Errorf(mx.MissingParam, "before_ts is missing.")
	}
	q := &query{r: r}
	q.number("before_ts", 0)
	return map[string]int{"deleted": 0}, q.err
}

func (s *Service) quarantine(on bool) route.Handler {
	return func(ctx context.Context, r *route.Request) (any, error) {
		id, err := s.ours(r)
		if err != nil {
			return nil, err
		}
		_, err = s.o.Files.Quarantine(ctx, id, r.UserID, on)
		return nil, err
	}
}

func (s *Service) protect(on bool) route.Handler {
	return func(ctx context.Context, r *route.Request) (any, error) {
		return nil, s.o.Files.Protect(ctx, r.Param("mediaID"), on)
	}
}

func (s *Service) quarantineUser(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	n, err := s.o.Files.QuarantineUser(ctx, u.UserID, r.UserID)
	return map[string]int64{"num_quarantined": n}, err
}

func (s *Service) quarantineRoom(ctx context.Context, r *route.Request) (any, error) {
	n, err := s.o.Files.QuarantineRoom(ctx, r.Param("roomID"), r.UserID)
	return map[string]int64{"num_quarantined": n}, err
}

func (s *Service) roomMedia(ctx context.Context, r *route.Request) (any, error) {
	local, remote, err := s.o.Files.RoomFiles(ctx, r.Param("roomID"))
	uris := make([]string, len(local))
	for i, id := range local {
		uris[i] = s.o.Files.URI(id)
	}
	if remote == nil {
		remote = []string{}
	}
	return map[string]any{"local": uris, "remote": remote}, err
}

type usage struct {
	UserID      string  `json:"user_id"`
	DisplayName *string `json:"displayname"`
	Count       int64   `json:"media_count"`
	Length      int64   `json:"media_length"`
}

// mediaUsage lists who has stored how much. Names are searched and sorted here: the
// media know user IDs only.
func (s *Service) mediaUsage(ctx context.Context, r *route.Request) (any, error) {
	q := &query{r: r}
	from, limit := q.page()
	by := q.oneOf("order_by", "user_id", "displayname", "media_length", "media_count")
	back := q.oneOf("dir", "f", "b") == "b"
	since, until := q.number("from_ts", 0), q.number("until_ts", 0)
	if q.err == nil && until > 0 && until < since {
		q.fail("until_ts is before from_ts.")
	}
	if q.err != nil {
		return nil, q.err
	}
	search := strings.ToLower(r.Query("search_term"))
	order := by
	if by == "displayname" {
		order = "user_id"
	}
	raw, _, err := s.o.Files.Usage(ctx, media.UsageQuery{Limit: 1 << 30, OrderBy: order, Backwards: back, Since: since, Until: until})
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		return s.o.Userdata.Profiles(q, func(id string, p userdata.Profile) { names[id] = p.DisplayName })
	})
	if err != nil {
		return nil, err
	}
	list := []usage{}
	for _, u := range raw {
		if search == "" || strings.Contains(localpart(u.UserID), search) || strings.Contains(strings.ToLower(names[u.UserID]), search) {
			list = append(list, usage{u.UserID, text(names[u.UserID]), u.Files, u.Bytes})
		}
	}
	if by == "displayname" {
		slices.SortStableFunc(list, func(a, b usage) int {
			if back {
				a, b = b, a
			}
			return texts(a.DisplayName, b.DisplayName)
		})
	}
	part, next := cut(list, from, limit)
	out := map[string]any{"users": part, "total": len(list)}
	if next > 0 {
		out["next_token"] = next
	}
	return out, nil
}
