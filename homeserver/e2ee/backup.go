package e2ee

import (
	"bytes"
	"context"
	"errors"
	"strconv"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Limits of key backups.
const (
	maxBackupBody   = 16 << 20
	maxSessionBytes = 64 << 10
	maxAuthData     = 64 << 10
	backupChunk     = 500 // sessions stored in one write, so that others need not wait long
)

func (s *Service) backupRoutes() []route.Route {
	const v3, r0, unstable = "/_matrix/client/v3/room_keys", "/_matrix/client/r0/room_keys", "/_matrix/client/unstable/room_keys"
	rt := func(op, method, path string, h route.Handler) route.Route {
		return route.Route{Op: op, Pattern: method + " " + v3 + path, Aliases: []string{r0 + path, unstable + path},
			Auth: route.User, Limit: route.Reads, MaxBody: maxBackupBody, Handle: h}
	}
	const room, session = "/keys/{roomID}", "/keys/{roomID}/{sessionID}"
	return []route.Route{
		rt("postRoomKeysVersion", "POST", "/version", route.JSON(s.createBackup)),
		rt("getRoomKeysVersionCurrent", "GET", "/version", route.Get(s.getBackup)),
		rt("getRoomKeysVersion", "GET", "/version/{version}", route.Get(s.getBackup)),
		rt("putRoomKeysVersion", "PUT", "/version/{version}", route.JSON(s.putBackup)),
		rt("deleteRoomKeysVersion", "DELETE", "/version/{version}", route.Get(s.deleteBackup)),
		rt("putRoomKeyBySessionId", "PUT", session, route.JSON(s.putSession)),
		rt("getRoomKeyBySessionId", "GET", session, route.Get(s.getSession)),
		rt("deleteRoomKeyBySessionId", "DELETE", session, route.Get(s.deleteSessions)),
		rt("putRoomKeysByRoomId", "PUT", room, route.JSON(s.putRoomSessions)),
		rt("getRoomKeysByRoomId", "GET", room, route.Get(s.getRoomSessions)),
		rt("deleteRoomKeysByRoomId", "DELETE", room, route.Get(s.deleteSessions)),
		rt("putRoomKeys", "PUT", "/keys", route.JSON(s.putAllSessions)),
		rt("getRoomKeys", "GET", "/keys", route.Get(s.getAllSessions)),
		rt("deleteRoomKeys", "DELETE", "/keys", route.Get(s.deleteSessions)),
	}
}

// backup is one version of a user's key backup.
type backup struct {
	version   int64
	algorithm string
	authData  []byte
	etag      int64
	count     int64
	deleted   bool
}

type versionResponse struct {
	Version string `json:"version"`
}

type backupRequest struct {
	Algorithm string `json:"algorithm"`
	AuthData  mx.Raw `json:"auth_data"`
	Version   string `json:"version"`
}

func (in backupRequest) check() error {
	if in.Algorithm == "" || in.AuthData == nil {
		return mx.Errorf(mx.MissingParam, "A backup needs an algorithm and auth_data.")
	}
	if len(in.AuthData) > maxAuthData || len(in.Algorithm) > 255 {
		return mx.Errorf(mx.TooLarge, "The auth_data of a backup has at most %d bytes.", maxAuthData)
	}
	if bytes.TrimSpace(in.AuthData)[0] != '{' {
		return mx.Errorf(mx.BadJSON, "The auth_data of a backup must be an object.")
	}
	return nil
}

// Spec: cs#post_matrixclientv3room_keysversion
func (s *Service) createBackup(ctx context.Context, r *route.Request, in backupRequest) (out versionResponse, err error) {
	if err := in.check(); err != nil {
		return out, err
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		v, err := insertBackup(tx, r.UserID, in.Algorithm, in.AuthData)
		out.Version = strconv.FormatInt(v, 10)
		return err
	})
	return out, err
}

type backupResponse struct {
	Algorithm string `json:"algorithm"`
	AuthData  mx.Raw `json:"auth_data"`
	Count     int64  `json:"count"`
	ETag      string `json:"etag"`
	Version   string `json:"version"`
}

var errNoBackup = mx.Errorf(mx.NotFound, "There is no such key backup.")

func parseVersion(v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 {
		return 0, errNoBackup
	}
	return n, nil
}

// loadVersion finds a backup that is not deleted; "" means the current one.
func loadVersion(q store.Querier, userID, version string) (b backup, err error) {
	if version == "" {
		b, err = loadCurrentBackup(q, userID)
	} else {
		n, err := parseVersion(version)
		if err != nil {
			return b, err
		}
		b, err = loadBackup(q, userID, n)
		if err != nil {
			return b, orNotFound(err)
		}
	}
	if err == nil && b.deleted {
		err = store.ErrNotFound
	}
	return b, orNotFound(err)
}

func orNotFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return errNoBackup
	}
	return err
}

func (s *Service) getBackup(ctx context.Context, r *route.Request) (out backupResponse, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		b, err := loadVersion(q, r.UserID, r.Param("version"))
		out = backupResponse{b.algorithm, b.authData, b.count, strconv.FormatInt(b.etag, 10), strconv.FormatInt(b.version, 10)}
		return err
	})
	return out, err
}

func (s *Service) putBackup(ctx context.Context, r *route.Request, in backupRequest) (out route.Empty, err error) {
	if err := in.check(); err != nil {
		return out, err
	}
	if in.Version != "" && in.Version != r.Param("version") {
		return out, mx.Errorf(mx.InvalidParam, "The version in the body is not the one in the path.")
	}
	return out, s.o.DB.Write(ctx, func(tx *store.Tx) error {
		b, err := loadVersion(tx, r.UserID, r.Param("version"))
		if err != nil {
			return err
		}
		if b.algorithm != in.Algorithm {
			return mx.Errorf(mx.InvalidParam, "The algorithm of a backup cannot be changed. Create a new version.")
		}
		return updateBackupAuth(tx, r.UserID, b.version, in.AuthData)
	})
}

func (s *Service) deleteBackup(ctx context.Context, r *route.Request) (out route.Empty, err error) {
	n, err := parseVersion(r.Param("version"))
	if err != nil {
		return out, err
	}
	return out, s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := loadBackup(tx, r.UserID, n); err != nil { // a deleted one may be deleted again
			return orNotFound(err)
		}
		return deleteBackup(tx, r.UserID, n)
	})
}

// backedSession is a session key of a backup.
type backedSession struct {
	FirstMessageIndex *int64 `json:"first_message_index"`
	ForwardedCount    *int64 `json:"forwarded_count"`
	IsVerified        *bool  `json:"is_verified"`
	SessionData       mx.Raw `json:"session_data"`
}

func (b backedSession) check() error {
	if b.FirstMessageIndex == nil || b.ForwardedCount == nil || b.IsVerified == nil || b.SessionData == nil {
		return mx.Errorf(mx.MissingParam, "A backed-up key needs first_message_index, forwarded_count, is_verified and session_data.")
	}
	if len(b.SessionData) > maxSessionBytes {
		return mx.Errorf(mx.TooLarge, "The session_data of a key has at most %d bytes.", maxSessionBytes)
	}
	if bytes.TrimSpace(b.SessionData)[0] != '{' {
		return mx.Errorf(mx.BadJSON, "The session_data of a key must be an object.")
	}
	if *b.FirstMessageIndex < 0 || *b.ForwardedCount < 0 || *b.FirstMessageIndex > pdu.MaxInt || *b.ForwardedCount > pdu.MaxInt {
		return mx.Errorf(mx.InvalidParam, "The first_message_index and forwarded_count of a key are not negative.")
	}
	return nil
}

// better reports whether b should replace old: verified ones win, then those
// that reach further back, then those that were forwarded less often.
// Spec: cs#put_matrixclientv3room_keyskeysroomidsessionid
func (b backedSession) better(old backedSession) bool {
	if *b.IsVerified != *old.IsVerified {
		return *b.IsVerified
	}
	if *b.FirstMessageIndex != *old.FirstMessageIndex {
		return *b.FirstMessageIndex < *old.FirstMessageIndex
	}
	return *b.ForwardedCount < *old.ForwardedCount
}

type roomSessions struct {
	Sessions map[string]backedSession `json:"sessions"`
}

type allSessions struct {
	Rooms map[string]roomSessions `json:"rooms"`
}

type countResponse struct {
	Count int64  `json:"count"`
	ETag  string `json:"etag"`
}

type namedSession struct {
	room, id string
	backedSession
}

func (s *Service) putSession(ctx context.Context, r *route.Request, in backedSession) (countResponse, error) {
	return s.putSessions(ctx, r, []namedSession{{r.Param("roomID"), r.Param("sessionID"), in}})
}

func (s *Service) putRoomSessions(ctx context.Context, r *route.Request, in roomSessions) (countResponse, error) {
	if in.Sessions == nil {
		return countResponse{}, mx.Errorf(mx.MissingParam, "Put the keys in %q.", "sessions")
	}
	var list []namedSession
	for id, b := range in.Sessions {
		list = append(list, namedSession{r.Param("roomID"), id, b})
	}
	return s.putSessions(ctx, r, list)
}

func (s *Service) putAllSessions(ctx context.Context, r *route.Request, in allSessions) (countResponse, error) {
	if in.Rooms == nil {
		return countResponse{}, mx.Errorf(mx.MissingParam, "Put the keys in %q.", "rooms")
	}
	var list []namedSession
	for room, sessions := range in.Rooms {
		for id, b := range sessions.Sessions {
			list = append(list, namedSession{room, id, b})
		}
	}
	return s.putSessions(ctx, r, list)
}

func (s *Service) putSessions(ctx context.Context, r *route.Request, list []namedSession) (out countResponse, err error) {
	for _, b := range list {
		if err := b.check(); err != nil {
			return out, err
		}
		if len(b.room) > mx.MaxIDBytes || len(b.id) > 255 || b.room == "" || b.id == "" {
			return out, mx.Errorf(mx.InvalidParam, "A room ID and a session ID have 1 to 255 bytes.")
		}
	}
	version := r.Query("version")
	if version == "" {
		return out, mx.Errorf(mx.MissingParam, "Name the backup's version in the query.")
	}
	for first := true; first || len(list) > 0; first = false {
		n := min(len(list), backupChunk)
		err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
			b, err := loadCurrentBackup(tx, r.UserID)
			if err != nil {
				return orNotFound(err)
			}
			if current := strconv.FormatInt(b.version, 10); current != version {
				return &mx.Error{Code: mx.WrongRoomKeysVersion, Msg: "This is not the current version of the backup.", Fields: map[string]any{"current_version": current}}
			}
			if err := storeSessions(tx, r.UserID, &b, list[:n]); err != nil {
				return err
			}
			out = countResponse{b.count, strconv.FormatInt(b.etag, 10)}
			return nil
		})
		if err != nil {
			return out, err
		}
		list = list[n:]
	}
	return out, nil
}

// storeSessions keeps the better of old and new keys, and b's count and etag.
func storeSessions(tx *store.Tx, userID string, b *backup, list []namedSession) error {
	changed := false
	for _, n := range list {
		old, err := loadSession(tx, userID, b.version, n.room, n.id)
		switch {
		case err == store.ErrNotFound:
			b.count++
		case err != nil:
			return err
		case !n.better(old):
			continue
		}
		changed = true
		if err := upsertSession(tx, userID, b.version, n); err != nil {
			return err
		}
	}
	if !changed {
		return nil
	}
	b.etag++
	return updateBackupCount(tx, userID, b.version, b.etag, b.count)
}

// readSessions lists the keys of a backup, of one room or session if named.
func (s *Service) readSessions(ctx context.Context, r *route.Request) (out []namedSession, err error) {
	if r.Query("version") == "" {
		return nil, mx.Errorf(mx.MissingParam, "Name the backup's version in the query.")
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		b, err := loadVersion(q, r.UserID, r.Query("version"))
		if err == nil {
			out, err = listSessions(q, r.UserID, b.version, r.Param("roomID"), r.Param("sessionID"))
		}
		return err
	})
	return out, err
}

func (s *Service) getSession(ctx context.Context, r *route.Request) (backedSession, error) {
	list, err := s.readSessions(ctx, r)
	if err == nil && len(list) == 0 {
		err = mx.Errorf(mx.NotFound, "The backup has no such key.")
	}
	if err != nil {
		return backedSession{}, err
	}
	return list[0].backedSession, nil
}

func (s *Service) getRoomSessions(ctx context.Context, r *route.Request) (out roomSessions, err error) {
	out.Sessions = map[string]backedSession{}
	list, err := s.readSessions(ctx, r)
	for _, n := range list {
		out.Sessions[n.id] = n.backedSession
	}
	return out, err
}

func (s *Service) getAllSessions(ctx context.Context, r *route.Request) (out allSessions, err error) {
	out.Rooms = map[string]roomSessions{}
	list, err := s.readSessions(ctx, r)
	for _, n := range list {
		if out.Rooms[n.room].Sessions == nil {
			out.Rooms[n.room] = roomSessions{map[string]backedSession{}}
		}
		out.Rooms[n.room].Sessions[n.id] = n.backedSession
	}
	return out, err
}

// deleteSessions removes the keys of a backup, of one room or session if named.
func (s *Service) deleteSessions(ctx context.Context, r *route.Request) (out countResponse, err error) {
	if r.Query("version") == "" {
		return out, mx.Errorf(mx.MissingParam, "Name the backup's version in the query.")
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		b, err := loadVersion(tx, r.UserID, r.Query("version"))
		if err != nil {
			return err
		}
		n, err := deleteSessions(tx, r.UserID, b.version, r.Param("roomID"), r.Param("sessionID"))
		if err != nil {
			return err
		}
		if n > 0 {
			b.etag, b.count = b.etag+1, b.count-n
			if err := updateBackupCount(tx, r.UserID, b.version, b.etag, b.count); err != nil {
				return err
			}
		}
		out = countResponse{b.count, strconv.FormatInt(b.etag, 10)}
		return nil
	})
	return out, err
}
