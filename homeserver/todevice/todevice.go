// Package todevice carries messages from device to device.
//
// Invariants: a message waits until the device acknowledges it with its next sync
// token; a transaction ID of a device delivers once; a device gets its messages
// in the order of their positions.
package todevice

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// MaxPerSync is how many messages one sync gives at most.
const MaxPerSync = 100

const (
	maxBody      = 8 << 20        // bytes of one sendToDevice
	maxContent   = 64 << 10       // bytes of one message's content
	maxTypeBytes = 255            // of an event type or transaction ID
	keepTxns     = 24 * time.Hour // how long a repeated request is recognised
	allDevices   = "*"
)

// Devices is what the package asks of the device list.
type Devices interface {
	// IDs lists a user's devices.
	IDs(q store.Querier, userID string) ([]string, error)
}

// Options of New.
type Options struct {
	DB      *store.DB
	Devices Devices
	// Queued is told of each message in the transaction that stores it. nil: nobody.
	Queued func(tx *store.Tx, userID, deviceID string, pos int64, msg mx.Raw) error
	Now    func() time.Time // nil: time.Now
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct{ o Options }

// New makes the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o}
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	return []route.Route{{
		Op: "sendToDevice", Pattern: "PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnID}",
		Aliases: []string{"/_matrix/client/r0/sendToDevice/{eventType}/{txnID}", "/_matrix/client/unstable/sendToDevice/{eventType}/{txnID}"},
		Auth:    route.User, Limit: route.Reads, MaxBody: maxBody, Handle: route.JSON(s.send),
	}}
}

type sendRequest struct {
	Messages map[string]map[string]mx.Raw `json:"messages"`
}

// Spec: cs#put_matrixclientv3sendtodeviceeventtypetxnid
func (s *Service) send(ctx context.Context, r *route.Request, in sendRequest) (route.Empty, error) {
	typ, txn := r.Param("eventType"), r.Param("txnID")
	if len(typ) > maxTypeBytes || len(txn) > maxTypeBytes {
		return route.Empty{}, mx.Errorf(mx.InvalidParam, "The event type and the transaction ID have at most %d bytes.", maxTypeBytes)
	}
	if in.Messages == nil {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "Put the messages in %q.", "messages")
	}
	for _, devices := range in.Messages {
		for _, content := range devices {
			if len(content) > maxContent {
				return route.Empty{}, mx.Errorf(mx.TooLarge, "A message has at most %d bytes.", maxContent)
			}
			if len(content) == 0 || content[0] != '{' {
				return route.Empty{}, mx.Errorf(mx.BadJSON, "The content of a message must be an object.")
			}
		}
	}
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		now := s.o.Now()
		fresh, err := insertTxn(tx, r.UserID, r.DeviceID, typ+" "+txn, now.UnixMilli())
		if err != nil || !fresh {
			return err
		}
		if err := deleteTxns(tx, now.Add(-keepTxns).UnixMilli()); err != nil {
			return err
		}
		return s.Send(tx, r.UserID, typ, in.Messages)
	})
	return route.Empty{}, err
}

// Send queues messages: user ID → device ID (or "*" for all) → content, a JSON
// object. Users and devices that are not here are passed over.
func (s *Service) Send(tx *store.Tx, sender, typ string, messages map[string]map[string]mx.Raw) error {
	for user, byDevice := range messages {
		ids, err := s.o.Devices.IDs(tx, user)
		if err != nil {
			return err
		}
		for _, id := range ids {
			content, ok := byDevice[id]
			if !ok {
				content, ok = byDevice[allDevices]
			}
			if !ok {
				continue
			}
			msg, err := json.Marshal(struct {
				Content mx.Raw `json:"content"`
				Sender  string `json:"sender"`
				Type    string `json:"type"`
			}{content, sender, typ})
			if err != nil {
				return err
			}
			pos := tx.NextPos()
			if err := insertMessage(tx, user, id, pos, msg); err != nil {
				return err
			}
			if s.o.Queued != nil {
				if err := s.o.Queued(tx, user, id, pos, msg); err != nil {
					return err
				}
			}
			tx.Touch(notify.Device, notify.DeviceKey(user, id))
		}
	}
	return nil
}

// Since gives a device's messages in (from, to], at most limit (0: MaxPerSync),
// oldest first, and last, the position to acknowledge them by: that of the last
// one given when there are more, to when there are not.
//
// A sync token must carry last beside its own position: a client that is given
// the first 100 of 150 messages has not seen those up to the token.
func Since(q store.Querier, userID, deviceID string, from, to int64, limit int) (msgs []mx.Raw, last int64, err error) {
	if limit <= 0 {
		limit = MaxPerSync
	}
	msgs, last, err = listMessages(q, userID, deviceID, from, to, limit)
	if err == nil && len(msgs) < limit {
		last = to
	}
	return msgs, last, err
}

// Since is the function of this name, for interfaces.
func (s *Service) Since(q store.Querier, userID, deviceID string, from, to int64, limit int) ([]mx.Raw, int64, error) {
	return Since(q, userID, deviceID, from, to, limit)
}

// Pending reports whether messages wait that Ack up to upTo would remove.
func Pending(q store.Querier, userID, deviceID string, upTo int64) (bool, error) {
	return hasMessages(q, userID, deviceID, upTo)
}

// Ack removes the messages that the device has got: those up to upTo.
func Ack(tx *store.Tx, userID, deviceID string, upTo int64) error {
	return deleteMessages(tx, userID, deviceID, upTo)
}

// DeviceDeleted removes what waits for a device that goes.
func (s *Service) DeviceDeleted(tx *store.Tx, userID, deviceID string) error {
	return deleteDevice(tx, userID, deviceID)
}
