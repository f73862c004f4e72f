package rooms

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// thirdPartySigned is an identity server's word that a user owns the address that a
// m.room.third_party_invite is for. Spec: cs#post_matrixclientv3joinroomidoralias
type thirdPartySigned struct {
	Sender     string                                `json:"sender"`
	MXID       string                                `json:"mxid"`
	Token      string                                `json:"token"`
	Signatures map[string]map[string]json.RawMessage `json:"signatures"`
}

// joinSigned joins a user who was invited by an address: the invitation by address
// becomes one of the user, on whose signature the rules of the room insist.
// Errors: BadJSON, Forbidden, NotFound.
func (r *Rooms) joinSigned(ctx context.Context, roomID, userID, reason string, raw json.RawMessage) error {
	var s thirdPartySigned
	if json.Unmarshal(raw, &s) != nil || s.Sender == "" || s.MXID == "" || s.Token == "" || len(s.Signatures) == 0 {
		return mx.Errorf(mx.BadJSON, "third_party_signed needs the strings sender, mxid and token, and signatures.")
	}
	if s.MXID != userID {
		return mx.Errorf(mx.Forbidden, "The signed invitation is for another user.")
	}
	var offer *Event
	joined := false
	err := r.db.Read(ctx, func(q store.Querier) (err error) {
		if _, err := r.nid(q, roomID); err != nil {
			return noRoom(err)
		}
		switch m, err := r.Membership(q, roomID, userID); {
		case err != nil:
			return err
		case m == mx.Join || m == mx.Invite:
			joined = true
			return nil
		}
		offer, err = r.State(q, roomID, mx.RoomThirdPartyInvite, s.Token)
		if errors.Is(err, store.ErrNotFound) {
			return mx.Errorf(mx.Forbidden, "The room has no invitation with this token.")
		}
		return err
	})
	if err != nil {
		return err
	}
	if joined { // there is nothing to be proved any more
		return r.Join(ctx, roomID, userID, reason, nil)
	}
	if offer.Sender != s.Sender || mx.Domain(s.Sender) != r.o.ServerName {
		return mx.Errorf(mx.Forbidden, "The invitation with this token was not made by %.80s of this server.", s.Sender)
	}
	if err := r.keysValid(ctx, raw, offer.Content); err != nil {
		return err
	}
	invite, err := r.memberContent(ctx, memberChange{target: userID, membership: mx.Invite, extra: map[string]json.RawMessage{
		"third_party_invite": thirdPartyContent(offer.ContentString("display_name"), raw)}})
	if err != nil {
		return err
	}
	return r.setMember(ctx, memberChange{room: roomID, sender: userID, target: userID, membership: mx.Join, reason: reason},
		func(b *batch, now string) error {
			if now == mx.Join {
				return errDone
			}
			if now == mx.Invite {
				return nil
			}
			_, err := b.add(NewEvent{Sender: s.Sender, Type: mx.RoomMember, StateKey: &userID, Content: invite})
			return err
		})
}

func thirdPartyContent(name string, signed json.RawMessage) json.RawMessage {
	b, _ := json.Marshal(map[string]any{"display_name": name, "signed": signed})
	return b
}

// keysValid looks for a key of the offer that signed, and asks its identity server,
// where the offer wants that, whether the key is still valid. Errors: Forbidden.
// Spec: cs#third-party-invites
func (r *Rooms) keysValid(ctx context.Context, signed, offer []byte) error {
	type key struct{ key, url string }
	keys := []key{{pdu.FieldString(offer, "public_key"), pdu.FieldString(offer, "key_validity_url")}}
	pdu.Elements(pdu.Field(offer, "public_keys"), func(k []byte) error {
		if len(keys) < 16 {
			keys = append(keys, key{pdu.FieldString(k, "public_key"), pdu.FieldString(k, "key_validity_url")})
		}
		return nil
	})
	for _, k := range keys {
		if !signedBy(signed, k.key) {
			continue
		}
		if k.url == "" {
			return nil
		}
		if ok, err := r.askKey(ctx, k.url, k.key); err != nil {
			return &mx.Error{Code: mx.Forbidden, Msg: "The identity server could not be asked whether its key is valid. Try again later.", Err: err}
		} else if ok {
			return nil
		}
	}
	return mx.Errorf(mx.Forbidden, "The invitation is not signed by a valid key that the room knows.")
}

// signedBy: one of the signatures is by the key, in unpadded base64, of either alphabet.
func signedBy(signed []byte, key string) bool {
	raw, err := pdu.DecodeBase64(key)
	if err != nil {
		raw, err = base64.RawURLEncoding.DecodeString(key)
	}
	if err != nil || len(raw) != 32 {
		return false
	}
	found, tries := false, 0
	pdu.Members(pdu.Field(signed, "signatures"), func(server string, sigs []byte) error {
		return pdu.Members(sigs, func(id string, _ []byte) error {
			if tries++; !found && tries <= 16 {
				found = pdu.VerifyJSON(signed, server, id, raw) == nil
			}
			return nil
		})
	})
	return found
}

// maxKeyAnswer bounds the answer of an identity server, in bytes.
const maxKeyAnswer = 4096

func (r *Rooms) askKey(ctx context.Context, address, key string) (bool, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || r.o.Client == nil {
		return false, errors.New("rooms: the address of the identity server is not usable")
	}
	q := u.Query()
	q.Set("public_key", key)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, "GET", u.String(), nil)
	if err != nil {
		return false, err
	}
	resp, err := r.o.Client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeyAnswer))
	if err != nil {
		return false, err
	}
	var out struct {
		Valid bool `json:"valid"`
	}
	if resp.StatusCode != 200 || json.Unmarshal(body, &out) != nil {
		return false, errors.New("rooms: the identity server answered " + resp.Status)
	}
	return out.Valid, nil
}
