package media

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// File is media as an administrator sees it.
type File struct {
	ID, UserID, Type, Name string
	Hash                   string // "": its content has not been uploaded yet
	Size                   int64  // bytes
	Created, Accessed      int64  // ms; Accessed 0: never
	QuarantinedBy          string // user ID; "": it is served
	Protected              bool   // it stays when others are quarantined
}

func toFile(m record) File {
	f := File{ID: m.ID, UserID: m.User, Type: m.Type, Name: m.Name, Hash: m.Hash, Size: m.Size, Created: m.Created, Accessed: m.Accessed,
		QuarantinedBy: m.QuarantinedBy, Protected: m.Protected}
	if f.Accessed == f.Created {
		f.Accessed = 0
	}
	return f
}

// Page is a part of a list.
type Page struct {
	From, Limit int
	OrderBy     string // "media_id", "upload_name", "created_ts", "last_access_ts", "media_length", "media_type", "quarantined_by" or "safe_from_quarantine"; "": the latest first
	Backwards   bool
}

// order is the ORDER BY of a page. Errors: mx.InvalidParam.
func order(by string, backwards bool, columns map[string]string) (string, error) {
	c, ok := columns[by]
	if !ok {
		return "", mx.Errorf(mx.InvalidParam, "A list cannot be ordered by %.80q.", by)
	}
	if backwards {
		c += " DESC"
	}
	return c, nil
}

var fileColumns = map[string]string{"": "created_ts", "created_ts": "created_ts", "media_id": "media_id", "upload_name": "file_name",
	"last_access_ts": "accessed_ts", "media_length": "size", "media_type": "content_type", "quarantined_by": "quarantined_by", "safe_from_quarantine": "protected"}

// URI is the mxc:// URI of media of this server.
func (s *Service) URI(id string) string { return "mxc://" + s.o.ServerName + "/" + id }

var errNoMedia = mx.Errorf(mx.NotFound, "There is no such media.")

// File finds media. Errors: mx.NotFound.
func (s *Service) File(ctx context.Context, id string) (f File, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		m, err := loadMedia(q, id)
		if errors.Is(err, store.ErrNotFound) {
			return errNoMedia
		}
		f = toFile(m)
		return err
	})
	return f, err
}

// UserFiles lists what a user has uploaded, and tells how many that are. Errors:
// mx.InvalidParam for an order that there is not.
func (s *Service) UserFiles(ctx context.Context, userID string, p Page) (list []File, total int64, err error) {
	by, err := order(p.OrderBy, p.Backwards || p.OrderBy == "", fileColumns)
	if err != nil {
		return nil, 0, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		rows, n, err := listOfUser(q, userID, by, p.From, p.Limit)
		for _, m := range rows {
			list = append(list, toFile(m))
		}
		total = n
		return err
	})
	return list, total, err
}

// mentions are the media that an event gives to its readers.
func mentions(event json.RawMessage) (uris []string) {
	type file struct {
		URL string `json:"url"`
	}
	type info struct {
		ThumbnailURL  string `json:"thumbnail_url"`
		ThumbnailFile file   `json:"thumbnail_file"`
	}
	var outer struct {
		Content map[string]json.RawMessage `json:"content"`
	}
	if json.Unmarshal(event, &outer) != nil {
		return nil
	}
	get := func(key string, into any) { // a field of another type is as good as none
		if v := outer.Content[key]; v != nil {
			json.Unmarshal(v, into)
		}
	}
	var url, avatar string
	var f file
	var i info
	get("url", &url)
	get("avatar_url", &avatar)
	get("file", &f)
	get("info", &i)
	for _, u := range []string{url, f.URL, i.ThumbnailURL, i.ThumbnailFile.URL, avatar} {
		if _, _, ok := parseURI(u); ok && !slices.Contains(uris, u) {
			uris = append(uris, u)
		}
	}
	return uris
}

var uriForm = regexp.MustCompile(`^mxc://([A-Za-z0-9.:\[\]-]{1,255})/([A-Za-z0-9_-]{1,255})$`)

// parseURI reads an mxc:// URI. Spec: cs#content-repo-security-considerations
func parseURI(s string) (server, id string, ok bool) {
	m := uriForm.FindStringSubmatch(s)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// RoomFiles lists the media that the events of a room give, in their order, by the
// IDs of those of this server and the URIs of the others. What is encrypted cannot be
// seen. Errors: mx.NotFound.
func (s *Service) RoomFiles(ctx context.Context, roomID string) (local, remote []string, err error) {
	seen := map[string]bool{}
	if s.o.RoomEvents == nil {
		return nil, nil, nil
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		return s.o.RoomEvents(q, roomID, "mxc://", func(event json.RawMessage) {
			for _, u := range mentions(event) {
				if seen[u] {
					continue
				}
				seen[u] = true
				if server, id, _ := parseURI(u); server == s.o.ServerName {
					local = append(local, id)
				} else {
					remote = append(remote, u)
				}
			}
		})
	})
	if errors.Is(err, store.ErrNotFound) {
		err = mx.Errorf(mx.NotFound, "There is no such room.")
	}
	return local, remote, err
}

// Quarantine keeps media from being served, and with it everything that has the same
// content now or is uploaded later; or lets it be served again. It tells how many
// media that changed: none for what is protected. Errors: mx.NotFound.
func (s *Service) Quarantine(ctx context.Context, id, by string, on bool) (n int64, err error) {
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := loadMedia(tx, id); errors.Is(err, store.ErrNotFound) {
			return errNoMedia
		} else if err != nil {
			return err
		}
		if on {
			n, err = quarantine(tx, id, by, s.o.Now().UnixMilli())
		} else {
			n, err = release(tx, id)
		}
		return err
	})
	return n, err
}

// QuarantineUser quarantines everything that a user has uploaded or has announced.
func (s *Service) QuarantineUser(ctx context.Context, userID, by string) (n int64, err error) {
	var ids []string
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		ids, err = idsOfUser(q, userID)
		return err
	})
	if err != nil {
		return 0, err
	}
	return s.quarantineAll(ctx, ids, by)
}

// QuarantineRoom quarantines the media of this server that a room's events give.
// Errors: mx.NotFound.
func (s *Service) QuarantineRoom(ctx context.Context, roomID, by string) (n int64, err error) {
	ids, _, err := s.RoomFiles(ctx, roomID)
	if err != nil {
		return 0, err
	}
	return s.quarantineAll(ctx, ids, by)
}

// someAtOnce is how many media one write changes: others wait for it.
const someAtOnce = 200

func (s *Service) quarantineAll(ctx context.Context, ids []string, by string) (n int64, err error) {
	for some := range slices.Chunk(ids, someAtOnce) {
		var more int64
		err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
			more = 0
			for _, id := range some {
				k, err := quarantine(tx, id, by, s.o.Now().UnixMilli())
				if err != nil {
					return err
				}
				more += k
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += more
	}
	return n, nil
}

// Protect keeps media from being quarantined with others and from being deleted for
// its age, or no longer. Errors: mx.NotFound.
func (s *Service) Protect(ctx context.Context, id string, on bool) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		found, err := protect(tx, id, on)
		if err == nil && !found {
			return errNoMedia
		}
		return err
	})
}

// Deleted is what was deleted.
type Deleted struct {
	IDs   []string
	Bytes int64 // that this freed on the disk: content that others have too stays
}

// Delete deletes media for good, with thumbnails. What is not there is left out of
// the answer.
func (s *Service) Delete(ctx context.Context, ids ...string) (d Deleted, err error) {
	for some := range slices.Chunk(ids, someAtOnce) {
		var gone, blobs []string
		err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
			gone, blobs = nil, nil
			for _, id := range some {
				m, unused, err := deleteMedia(tx, id)
				if errors.Is(err, store.ErrNotFound) {
					continue
				}
				if err != nil {
					return err
				}
				gone, blobs = append(gone, m.ID), append(blobs, unused...)
			}
			tx.AfterCommit(func() {
				for _, id := range gone {
					s.arrived.publish(id)
				}
			})
			return nil
		})
		if err != nil {
			return d, err
		}
		d.IDs = append(d.IDs, gone...)
		freed, err := s.collect(ctx, blobs)
		d.Bytes += freed
		if err != nil {
			return d, err
		}
	}
	return d, nil
}

// DeleteUser deletes a page of what a user has uploaded.
func (s *Service) DeleteUser(ctx context.Context, userID string, p Page) (Deleted, error) {
	list, _, err := s.UserFiles(ctx, userID, p)
	if err != nil {
		return Deleted{}, err
	}
	ids := make([]string, len(list))
	for i, f := range list {
		ids[i] = f.ID
	}
	return s.Delete(ctx, ids...)
}

// Old says which media DeleteOld deletes.
type Old struct {
	Before  int64 // ms: nobody has asked for it since
	MinSize int64 // bytes
	// KeepUsed keeps what profiles and the state of rooms show: avatars, stickers.
	KeepUsed bool
	// KeepSpecial keeps what is quarantined, so that it stays as evidence, and what is protected.
	KeepSpecial bool
}

// DeleteOld deletes media by age and size.
func (s *Service) DeleteOld(ctx context.Context, o Old) (d Deleted, err error) {
	inUse := map[string]bool{}
	if o.KeepUsed && s.o.InUse != nil {
		err := s.o.DB.Read(ctx, func(q store.Querier) error {
			return s.o.InUse(q, func(text string) {
				for _, m := range anyURI.FindAllStringSubmatch(text, -1) {
					if m[1] == s.o.ServerName {
						inUse[m[2]] = true
					}
				}
			})
		})
		if err != nil {
			return d, err
		}
	}
	var last record
	for {
		var list []record
		err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
			list, err = old(q, o.Before, o.MinSize, last, someAtOnce)
			return err
		})
		if err != nil || len(list) == 0 {
			return d, err
		}
		last = list[len(list)-1]
		var ids []string
		for _, m := range list {
			if !inUse[m.ID] && !(o.KeepSpecial && (m.Protected || m.QuarantinedBy != "")) {
				ids = append(ids, m.ID)
			}
		}
		some, err := s.Delete(ctx, ids...)
		d.IDs, d.Bytes = append(d.IDs, some.IDs...), d.Bytes+some.Bytes
		if err != nil {
			return d, err
		}
	}
}

// anyURI finds mxc:// URIs in text.
var anyURI = regexp.MustCompile(`mxc://([A-Za-z0-9.:\[\]-]+)/([A-Za-z0-9_-]+)`)

// Usage is how much a user has stored.
type Usage struct {
	UserID       string
	Files, Bytes int64
}

// UsageQuery is a part of the list of Usage.
type UsageQuery struct {
	From, Limit  int
	OrderBy      string // "user_id", "media_count" or "media_length"; "": user_id
	Backwards    bool
	Search       string // part of the user ID
	Since, Until int64  // ms, of the uploads; 0: all
}

// Usage lists who has stored how much, and tells how many they are. Errors:
// mx.InvalidParam for an order that there is not.
func (s *Service) Usage(ctx context.Context, p UsageQuery) (list []Usage, total int64, err error) {
	by, err := order(p.OrderBy, p.Backwards, map[string]string{"": "user_id", "user_id": "user_id", "media_count": "files", "media_length": "bytes"})
	if err != nil {
		return nil, 0, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		list, total, err = usage(q, p, by)
		return err
	})
	return list, total, err
}

// expireAfter deletes what nobody has asked for in the lifetime that an administrator set.
func (s *Service) expireAfter(ctx context.Context, lifetime time.Duration) (Deleted, error) {
	return s.DeleteOld(ctx, Old{Before: s.o.Now().Add(-lifetime).UnixMilli(), KeepUsed: true, KeepSpecial: true})
}
