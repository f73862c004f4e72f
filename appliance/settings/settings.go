// Package settings keeps what an administrator decided in the database.
//
// Invariants: keys are constants of this package; a value is read from memory and
// is there only once it is on disk.
package settings

import (
	"context"
	"slices"
	"sync"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// The keys.
const (
	Organisation = "organisation"
	ServerName   = "server_name" // fixed: accounts carry it
	Claimed      = "claimed"     // "yes" once the setup was finished
	ClaimHash    = "claim.hash"  // SHA-256 of the claim code, hex
	SelfTestRoom = "selftest.room"
	TLSMode      = "tls.mode"
	TLSEmail     = "tls.acme_email"

	// The mail server; without MailHost there is none.
	MailHost     = "mail.host"
	MailPort     = "mail.port"
	MailSecurity = "mail.security"
	MailUser     = "mail.user"
	MailPassword = "mail.password" // sealed by the identity provider's key
	MailFrom     = "mail.from"
	MailCA       = "mail.ca" // PEM; "": the system's

	// Rules for uploaded files, as holdfast files set takes them; "": the standard.
	MaxUpload = "files.max_upload"
	FileQuota = "files.quota"
	FileTotal = "files.total"
	FileKeep  = "files.keep"
	FileOpen  = "files.open"

	// Ways in of the legacy login, as holdfast login set takes them; "": on.
	LoginPassword = "login.password"
	LoginSSO      = "login.sso"

	// Rules of signing in, as holdfast login set takes them; "": the standard.
	PasswordAlone = "login.password_alone"       // "on"
	FactorWho     = "login.second_factor"        // "roles", "everyone"; "": nobody
	FactorGroups  = "login.second_factor_groups" // IDs, with spaces between
	FactorGrace   = "login.second_factor_grace"  // days
	FactorSince   = "login.second_factor_since"  // when it was decided who must, RFC 3339
	PasswordMin   = "login.password_min"         // characters
	SessionMax    = "login.session_max"          // time, as 30d
	SessionIdle   = "login.session_idle"         // time, as 12h

	// Notifications, as holdfast push set takes them; "": the standard.
	PushKeep    = "push.keep"
	PushForeign = "push.foreign"
	PushWebKey  = "push.web_key" // private key for Web Push, sealed by the identity provider's key
	// Rules for previews of links, as holdfast previews set takes them; "": the standard.
	Previews        = "previews.enabled" // "on"
	PreviewsAllow   = "previews.allow"
	PreviewsDeny    = "previews.deny"
	PreviewsPrivate = "previews.private"
	PreviewsPorts   = "previews.ports"
	PreviewsSpace   = "previews.space"

	// Rules for notices, as holdfast notices set takes them; "": the standard.
	NoticeName       = "notices.name"
	NoticeAvatar     = "notices.avatar"
	NoticeRoom       = "notices.room_name"
	NoticeRoomAvatar = "notices.room_avatar"
	NoticeTopic      = "notices.topic"
	NoticeJoin       = "notices.join"
	NoticeReply      = "notices.reply"

	ConsolePassword = "console.password" // argon2id hash; the screen's menu asks for it
	ShareUpdates    = "updates.share"    // "yes": other appliances may fetch the running version
)

const (
	listSettings  = `SELECT key, value FROM appliance_settings`
	putSetting    = `INSERT INTO appliance_settings (key, value, since) VALUES ($1, $2, $3) ON CONFLICT (key) DO UPDATE SET value = excluded.value, since = excluded.since`
	claimSetting  = `INSERT INTO appliance_settings (key, value, since) VALUES ($1, $2, $3) ON CONFLICT (key) DO NOTHING`
	deleteSetting = `DELETE FROM appliance_settings WHERE key = $1`
)

// Settings is the table in memory.
type Settings struct {
	db     *store.DB
	log    *audit.Log // nil: nothing is noted
	mu     sync.RWMutex
	values map[string]string
}

// Load reads the settings.
func Load(ctx context.Context, db *store.DB, log *audit.Log) (*Settings, error) {
	s := &Settings{db: db, log: log, values: map[string]string{}}
	err := db.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(listSettings)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k, v string
			if err := rows.Scan(&k, &v); err != nil {
				return err
			}
			s.values[k] = v
		}
		return rows.Err()
	})
	return s, err
}

// Get is a setting's value, or "".
func (s *Settings) Get(key string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.values[key]
}

// Put changes settings, all or none. An empty value removes the setting.
func (s *Settings) Put(ctx context.Context, values map[string]string) error {
	return s.db.Write(ctx, func(tx *store.Tx) error { return s.PutTx(tx, values) })
}

// PutTx is Put as part of a write.
func (s *Settings) PutTx(tx *store.Tx, values map[string]string) error {
	now := time.Now().UnixMilli()
	var changed []string
	for k, v := range values {
		if v != s.Get(k) && !slices.Contains(inner, k) {
			changed = append(changed, k)
		}
		var err error
		if v == "" {
			_, err = tx.Exec(deleteSetting, k)
		} else {
			_, err = tx.Exec(putSetting, k, v, now)
		}
		if err != nil {
			return err
		}
	}
	if err := s.note(tx, changed, values); err != nil {
		return err
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for k, v := range values {
			if v == "" {
				delete(s.values, k)
			} else {
				s.values[k] = v
			}
		}
	})
	return nil
}

// inner are settings that nobody decides, and secrets those whose values are nobody's to
// read.
var (
	inner   = []string{ClaimHash, SelfTestRoom}
	secrets = []string{MailPassword, PushWebKey, ConsolePassword}
)

// note has in the audit log which settings were changed, and to what.
func (s *Settings) note(tx *store.Tx, changed []string, values map[string]string) error {
	if len(changed) == 0 {
		return nil
	}
	d := audit.Data{}
	for _, k := range changed {
		d[k] = values[k]
		if slices.Contains(secrets, k) {
			d[k] = "(secret)"
		}
	}
	return s.log.Tx(tx.Context(), tx, audit.Event{Name: "setting.change", Data: d})
}

// ClaimTx sets a setting that has no value yet, as part of a write. It reports
// whether it did.
func (s *Settings) ClaimTx(tx *store.Tx, key, value string) (bool, error) {
	n, err := tx.Exec(claimSetting, key, value, time.Now().UnixMilli())
	if err != nil || n == 0 {
		return false, err
	}
	if err := s.note(tx, []string{key}, map[string]string{key: value}); err != nil {
		return false, err
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.values[key] = value
	})
	return true, nil
}
