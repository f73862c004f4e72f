// Package rooms is the write side of rooms: it makes events, checks them against
// the room's state, and stores them once, with the state before them. It also
// answers what is now in a room: state, members, aliases.
//
// Invariants:
//   - A local room's events form a line. Its next event is built under the room's
//     lock on the event queued before it, so that hashing and signing stay out of
//     the store's writer; the writer refuses an event whose predecessor it did not
//     write last, and then the room is read again and the event built anew.
//   - What readers see through a store.Querier is what the snapshot holds; the
//     state in memory runs ahead of it and serves building only.
//   - Every stored event takes a position and touches notify.Room of its room; a
//     member event also touches notify.Member of its user.
//   - A device's transaction ID makes at most one event in a room and event type.
package rooms

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/store"
	"holdfast/store/sealed"
)

// Options of New.
type Options struct {
	DB         *store.DB
	Secrets    *sealed.Box // seals the signing key
	ServerName string
	Log        *slog.Logger
	// Profile gives the display name and avatar that member events of a local user
	// carry. nil: none.
	Profile func(q store.Querier, userID string) (displayName, avatarURL string, err error)
	// MayShow refuses that a local user goes by a name or picture of their own choice in
	// one room, by the content of a member event. Errors: Forbidden. nil: all may.
	MayShow func(ctx context.Context, userID string, content json.RawMessage) error
	// MayTakeAlias says why an alias cannot be made or deleted by an application
	// service, or by people if that is "": nil, or Exclusive. nil: all may be.
	MayTakeAlias func(alias, appservice string) error
	// AskAlias asks for a room that an application service would make for an alias
	// when somebody wants it, and reports whether it did. nil: none does.
	AskAlias func(ctx context.Context, alias string) (bool, error)
	// AskUser asks for a user whom an application service would make when somebody
	// wants them. nil: none does.
	AskUser func(ctx context.Context, userID string) error
	// Listed are the rooms in the directory of one network of application services,
	// or of all if instance is "". nil: none.
	Listed func(q store.Querier, instance string) ([]string, error)
	// DefaultVersion is the version of new rooms that ask for none. nil, or a version
	// that cannot be created: pdu.Default.
	DefaultVersion func() pdu.Version
	// ForcesEncryption reports whether rooms that clients make with a preset are
	// encrypted in any case. nil: none are.
	ForcesEncryption func(preset string) bool
	// InvitesBlocked reports whether a user takes no invitations
	// (m.invite_permission_config). nil: nobody blocks them.
	InvitesBlocked func(q store.Querier, userID string) (bool, error)
	// Client asks identity servers whether a key of theirs is valid. nil: no such key is taken.
	Client *http.Client
	// NoticesUser is the server's own user, who has no account and speaks to people in a
	// room for each (notices.go). "": there is none.
	NoticesUser string
	Now         func() time.Time // nil: time.Now
}

// Rooms is the homeserver's rooms. Its methods are safe for concurrent use.
type Rooms struct {
	o     Options
	db    *store.DB
	key   pdu.SigningKey
	hooks []func(tx *store.Tx, e *Event) error
	// purged are called when events are deleted.
	purged []func(tx *store.Tx, at []int64) error

	hot   hotCache
	cache eventCache
	tails tailCache
	txns  txnCache
	nids  nidCache

	blocks  blocks
	closing closings
	created atomic.Int64 // the latest createdAt
}

// New loads the signing key, or makes one, and returns the rooms.
func New(ctx context.Context, o Options) (*Rooms, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Rooms{o: o, db: o.DB}
	r.hot.init()
	r.cache.init()
	r.tails.init()
	r.txns.init()
	if err := sealKeys(ctx, o); err != nil {
		return nil, err
	}
	err := o.DB.Write(ctx, func(tx *store.Tx) error {
		blocked, err := loadBlocks(tx)
		if err != nil {
			return err
		}
		r.blocks.m = blocked
		id, seed, err := loadKey(tx, o.Secrets)
		if errors.Is(err, store.ErrNotFound) {
			id, seed = "ed25519:h_"+strings.ToLower(rand.Text()[:6]), make([]byte, ed25519.SeedSize)
			rand.Read(seed)
			err = insertKey(tx, o.Secrets, id, seed, o.Now().UnixMilli())
		}
		if err != nil {
			return err
		}
		if len(seed) != ed25519.SeedSize {
			return fmt.Errorf("rooms: the signing key %s is damaged", id)
		}
		r.key = pdu.SigningKey{ID: id, Server: o.ServerName, Private: ed25519.NewKeyFromSeed(seed)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// SigningKey is the key that the server signs with now.
func (r *Rooms) SigningKey() pdu.SigningKey { return r.key }

// DefaultVersion is the version of new rooms that ask for none.
func (r *Rooms) DefaultVersion() pdu.Version {
	if r.o.DefaultVersion != nil {
		if v := r.o.DefaultVersion(); pdu.Creatable(v) {
			return v
		}
	}
	return pdu.Default
}

// ServerName is the server's name.
func (r *Rooms) ServerName() string { return r.o.ServerName }

// Hook has f called in the writer, in the transaction that stores an event, for
// every event. To be called before the first request.
func (r *Rooms) Hook(f func(tx *store.Tx, e *Event) error) { r.hooks = append(r.hooks, f) }

// NewEvent is an event to be sent.
type NewEvent struct {
	RoomID    string
	Sender    string
	DeviceID  string // with TxnID
	TxnID     string // "": none
	Type      string
	StateKey  *string // nil: not a state event
	Content   json.RawMessage
	Timestamp int64          // ms; 0: now
	Redacts   string         // with m.room.redaction
	Unsigned  map[string]any // what the server adds to unsigned for the sending device

	unchecked bool                // the room's rules are not asked
	asOf      map[StateKey]*Event // state to judge it by instead of the current one; nil: the current one
}

// Errors that more than one function returns.
var errNoRoom = mx.Errorf(mx.NotFound, "This server does not know the room.")

// errNotIn is what somebody gets who is not in the room.
func errNotIn() error { return mx.Errorf(mx.Forbidden, "You are not in this room.") }

// nidCache maps room IDs to the numbers that rows carry. Rooms are never
// renumbered, and no number is used twice, so entries are never wrong.
type nidCache struct {
	m    sync.Map
	gone sync.Map // rooms that were deleted: a reader of an older snapshot puts none back
}

// minChain is the least length of a chain of state groups between snapshots.
const minChain = 100
