package unifiedpush

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"holdfast/store"
)

// Errors that callers may test for.
var (
	ErrPhones   = fmt.Errorf("a person has at most %d phones that fetch notifications; end one first", maxPhones)
	ErrNoPhone  = errors.New("there is no such phone")
	ErrNoDevice = errors.New("there is no such device of this person")
	ErrName     = fmt.Errorf("the phone's name has 1 to %d bytes, all of which can be read", maxNameLen)
)

// Phone is somebody's device that fetches notifications from here.
type Phone struct {
	ID        int64
	UserID    string
	DeviceID  string // the Matrix device with which it ends; "": none
	Name      string
	Created   time.Time
	LastSeen  time.Time // zero: never; exact to the hour
	Topics    int
	Connected bool
}

// AddPhone makes a phone of a person, and the secret that it shows, which is not
// given again. Errors: ErrPhones, ErrNoDevice, ErrName.
func (s *Service) AddPhone(ctx context.Context, userID, deviceID, name string) (p Phone, secret string, err error) {
	name = strings.TrimSpace(name)
	if name == "" || len(name) > maxNameLen || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return p, "", ErrName
	}
	secret = newSecret()
	row := phone{userID: userID, deviceID: deviceID, name: name, created: nowMS()}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if deviceID != "" && s.o.HasDevice != nil {
			if ok, err := s.o.HasDevice(tx, userID, deviceID); err != nil || !ok {
				if err == nil {
					err = ErrNoDevice
				}
				return err
			}
		}
		list, err := phonesOf(tx, userID)
		if err != nil {
			return err
		}
		if len(list) >= maxPhones {
			return ErrPhones
		}
		row.id = s.phones.Add(1)
		return insertPhone(tx, row, hashOf(secret))
	})
	return toPhone(row), secret, err
}

// Phones lists a person's phones, or with "" those of all.
func (s *Service) Phones(ctx context.Context, userID string) (out []Phone, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := phonesOf(q, userID)
		if err != nil {
			return err
		}
		out = make([]Phone, 0, len(list))
		for _, p := range list {
			x := toPhone(p)
			if x.Topics, err = topicsOf(q, p.id); err != nil {
				return err
			}
			out = append(out, x)
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range out {
		out[i].Connected = s.ofPhone[out[i].ID] > 0
	}
	return out, err
}

// EndPhone ends a phone of a person: its connections, its topics and what waits
// for it. Errors: ErrNoPhone.
func (s *Service) EndPhone(ctx context.Context, userID string, id int64) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		list, err := phonesOf(tx, userID)
		if err != nil {
			return err
		}
		for _, p := range list {
			if p.id == id {
				return s.endPhones(tx, `id = $1`, id)
			}
		}
		return ErrNoPhone
	})
}

func toPhone(p phone) Phone {
	out := Phone{ID: p.id, UserID: p.userID, DeviceID: p.deviceID, Name: p.name, Created: time.UnixMilli(p.created)}
	if p.lastSeen > 0 {
		out.LastSeen = time.UnixMilli(p.lastSeen)
	}
	return out
}

// newSecret makes a secret of 130 bits that can be typed.
func newSecret() string {
	t := strings.ToLower(rand.Text())
	return t[:5] + "-" + t[5:10] + "-" + t[10:15] + "-" + t[15:20] + "-" + t[20:]
}

// hashOf is a secret's hash, however it was typed.
func hashOf(secret string) []byte {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == ' ':
			return -1
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return r
	}, secret)
	h := sha256.Sum256([]byte(clean))
	return h[:]
}

// credentials are what a request shows: of Basic the name and the password, of
// Bearer the password alone; also in the parameter auth, for those who cannot set a
// header.
func credentials(r *http.Request) (name, secret string, ok bool) {
	if a := r.URL.Query().Get("auth"); a != "" && r.Header.Get("Authorization") == "" {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(a, "="))
		if err != nil || len(b) > 1024 {
			return "", "", false
		}
		r = &http.Request{Header: http.Header{"Authorization": {string(b)}}}
	}
	if name, secret, ok = r.BasicAuth(); ok {
		if i := strings.LastIndexByte(secret, ':'); i >= 0 { // the name is a whole user ID
			name, secret = name+":"+secret[:i], secret[i+1:]
		}
		return name, secret, secret != ""
	}
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	secret = strings.TrimSpace(secret)
	return "", secret, strings.EqualFold(scheme, "Bearer") && secret != ""
}

// authenticate finds the phone that a request comes from. Errors: errUnauthorized, errLocked.
func (s *Service) authenticate(r *http.Request) (p phone, err error) {
	name, secret, ok := credentials(r)
	if !ok || len(secret) > 256 {
		return p, errUnauthorized
	}
	err = s.o.DB.Read(r.Context(), func(q store.Querier) (err error) {
		p, err = phoneBySecret(q, hashOf(secret))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return p, errUnauthorized
	}
	if err != nil {
		return p, err
	}
	if name != "" && !strings.EqualFold(name, p.userID) {
		local, _, _ := strings.Cut(strings.TrimPrefix(p.userID, "@"), ":")
		if !strings.EqualFold(name, local) {
			return p, errUnauthorized
		}
	}
	held, err := s.o.Held(r.Context(), p.userID)
	if err == nil && held {
		err = errLocked
	}
	return p, err
}

// checkAuth tells an app whether it could subscribe.
func (s *Service) checkAuth(w http.ResponseWriter, r *http.Request, list string) error {
	names, err := parseTopics(list)
	if err != nil {
		return err
	}
	p, err := s.authenticate(r)
	if err != nil {
		return err
	}
	err = s.o.DB.Read(r.Context(), func(q store.Querier) error {
		for _, n := range names {
			t, err := s.topicByName(q, n)
			if err == nil && t.userID != p.userID {
				return errForbidden
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	if err == nil {
		writeJSON(w, http.StatusOK, map[string]bool{"success": true})
	}
	return err
}

// claim gives topics to the phone that subscribes to them: new ones, and those of
// another phone of the same person, as after a new secret. Nothing is written where
// nothing changes. Errors: errForbidden, errPhoneTopics.
func (s *Service) claim(ctx context.Context, p phone, names []string) (ids map[int64]string, err error) {
	now := nowMS()
	old := now - seenExact.Milliseconds()
	change := p.lastSeen < old
	claimed := false
	ids = make(map[int64]string, len(names))
	look := func(q store.Querier, write *store.Tx) error {
		clear(ids)
		have := -1
		for _, n := range names {
			t, err := s.topicByName(q, n)
			isNew := errors.Is(err, store.ErrNotFound)
			switch {
			case err != nil && !isNew:
				return err
			case !isNew && t.userID != p.userID:
				return errForbidden
			case !isNew && t.phoneID == p.id && t.lastSeen >= old:
			case write == nil:
				change = true
				return nil
			case !isNew && t.phoneID == p.id:
				if err := seeTopic(write, t.id, now); err != nil {
					return err
				}
			default:
				if have < 0 {
					if have, err = topicsOf(q, p.id); err != nil {
						return err
					}
				}
				if have++; have > maxTopics {
					return errPhoneTopics
				}
				if t.id, err = s.claimTopic(write, s.topics.Add(1), n, p, now); err != nil {
					return err
				}
				claimed = true
				if err := moveMessages(write, t.id, p.id); err != nil {
					return err
				}
			}
			ids[t.id] = n
		}
		return nil
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error { return look(q, nil) })
	if err != nil || !change {
		return ids, err
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		// The phone may have ended since its secret was looked at.
		list, err := phonesOf(tx, p.userID)
		if err != nil {
			return err
		}
		there := false
		for _, x := range list {
			there = there || x.id == p.id
		}
		if !there {
			return errUnauthorized
		}
		if err := seePhone(tx, p.id, now); err != nil {
			return err
		}
		return look(tx, tx)
	})
	if err == nil {
		s.mu.Lock()
		for _, n := range names {
			delete(s.unknown, n)
		}
		s.mu.Unlock()
		if claimed && s.o.Claimed != nil {
			s.o.Claimed(p.userID)
		}
	}
	return ids, err
}
