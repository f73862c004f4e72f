package e2ee

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Usages of cross-signing keys. Spec: cs#cross-signing
const (
	usageMaster      = "master"
	usageSelfSigning = "self_signing"
	usageUserSigning = "user_signing"
)

const maxSignatureUsers = 1000

func (s *Service) crossSigningRoutes() []route.Route {
	return []route.Route{
		{Op: "uploadCrossSigningKeys", Pattern: "POST /_matrix/client/v3/keys/device_signing/upload",
			Aliases: []string{"/_matrix/client/unstable/keys/device_signing/upload", "/_matrix/client/r0/keys/device_signing/upload"},
			Auth:    route.User, Limit: route.Reads, Handle: route.JSON(s.uploadCrossSigning)},
		{Op: "uploadCrossSigningSignatures", Pattern: "POST /_matrix/client/v3/keys/signatures/upload",
			Aliases: []string{"/_matrix/client/unstable/keys/signatures/upload", "/_matrix/client/r0/keys/signatures/upload"},
			Auth:    route.User, Limit: route.Reads, Handle: route.JSON(s.uploadSignatures)},
	}
}

// crossKey is a cross-signing key in canonical form.
type crossKey struct {
	usage  string
	public string // unpadded base64
	key    []byte // without signatures that were not verified
	sigs   map[string]string
}

// parseCrossKey checks the form of a key of userID.
func parseCrossKey(userID, usage string, raw []byte) (k crossKey, err error) {
	var in struct {
		UserID     string                       `json:"user_id"`
		Usage      []string                     `json:"usage"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	field := usage + "_key"
	if len(raw) > maxKeyBytes {
		return k, mx.Errorf(mx.TooLarge, "A key has at most %d bytes.", maxKeyBytes)
	}
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' || json.Unmarshal(raw, &in) != nil {
		return k, mx.Errorf(mx.BadJSON, "The field %q must be an object with user_id, usage and keys.", field)
	}
	if in.UserID != userID {
		return k, mx.Errorf(mx.InvalidParam, "The user_id in %q must be yours.", field)
	}
	used := false
	for _, u := range in.Usage {
		used = used || u == usage
	}
	if !used {
		return k, mx.Errorf(mx.InvalidParam, "The usage in %q must be %q.", field, usage)
	}
	if len(in.Keys) != 1 {
		return k, mx.Errorf(mx.InvalidParam, "The keys in %q must be exactly one.", field)
	}
	for id, pub := range in.Keys {
		if id != "ed25519:"+pub {
			return k, mx.Errorf(mx.InvalidParam, "The key in %q must be named ed25519:, followed by the key.", field)
		}
		if _, err := publicKey(pub); err != nil {
			return k, mx.Errorf(mx.InvalidParam, "The key in %q must be 32 bytes in unpadded base64.", field)
		}
		k.public = pub
	}
	c, err := pdu.Canonical(raw)
	if err != nil {
		return k, err
	}
	k.usage, k.key, k.sigs = usage, c, in.Signatures[userID]
	return k, nil
}

func publicKey(b64 string) (ed25519.PublicKey, error) {
	b, err := pdu.DecodeBase64(b64)
	if err == nil && len(b) != ed25519.PublicKeySize {
		err = errors.New("not the length of a key")
	}
	return b, err
}

// verify checks the signature of an object by a public key in base64.
func verify(object []byte, signer, keyID, pub string) error {
	k, err := publicKey(pub)
	if err != nil {
		return err
	}
	return pdu.VerifyJSON(object, signer, keyID, k)
}

type crossSigningRequest struct {
	Master      mx.Raw `json:"master_key"`
	SelfSigning mx.Raw `json:"self_signing_key"`
	UserSigning mx.Raw `json:"user_signing_key"`
}

// uploadCrossSigning stores a user's keys. The first ones need no confirmation,
// nor does a repetition; replacing keys does (MSC3967).
// Spec: cs#post_matrixclientv3keysdevice_signingupload
func (s *Service) uploadCrossSigning(ctx context.Context, r *route.Request, in crossSigningRequest) (out route.Empty, err error) {
	var keys []crossKey
	for usage, raw := range map[string]mx.Raw{usageMaster: in.Master, usageSelfSigning: in.SelfSigning, usageUserSigning: in.UserSigning} {
		if raw == nil || string(raw) == "null" {
			continue
		}
		k, err := parseCrossKey(r.UserID, usage, raw)
		if err != nil {
			return out, err
		}
		keys = append(keys, k)
	}
	var old map[string]storedKey
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		if old, err = listCrossSigningKeys(q, r.UserID); err != nil {
			return err
		}
		return s.checkCrossKeys(q, r.UserID, keys, old)
	})
	if err != nil {
		return out, err
	}
	if !bringsNew(keys, old) {
		return out, nil
	}
	_, had := old[usageMaster]
	confirmed := !had || r.Appservice != "" || s.o.ConfirmReset == nil
	if !confirmed {
		if err := s.o.ConfirmReset(ctx, r); err != nil {
			return out, err
		}
	}
	return out, s.o.DB.Write(ctx, func(tx *store.Tx) error {
		now, err := listCrossSigningKeys(tx, r.UserID)
		if err != nil {
			return err
		}
		if len(now) != len(old) || bringsNew(asKeys(old), now) {
			return mx.Errorf(mx.Forbidden, "Another device changed the keys meanwhile. Fetch them and try again.")
		}
		if err := s.checkCrossKeys(tx, r.UserID, keys, now); err != nil { // a device may be new
			return err
		}
		return s.storeCrossKeys(tx, r.UserID, keys, now)
	})
}

// HasMasterKey reports whether a user has set up cross-signing.
func (s *Service) HasMasterKey(q store.Querier, userID string) (bool, error) {
	keys, err := listCrossSigningKeys(q, userID)
	_, has := keys[usageMaster]
	return has, err
}

func asKeys(m map[string]storedKey) (out []crossKey) {
	for usage, k := range m {
		out = append(out, crossKey{usage: usage, public: k.public})
	}
	return out
}

func bringsNew(keys []crossKey, old map[string]storedKey) bool {
	for _, k := range keys {
		if old[k.usage].public != k.public {
			return true
		}
	}
	return false
}

// checkCrossKeys checks what the keys must have to do with each other. A signature
// names its key by the key alone, so that no two keys, and no key and device, may have
// the same name.
func (s *Service) checkCrossKeys(q store.Querier, userID string, keys []crossKey, old map[string]storedKey) error {
	if len(keys) == 0 {
		return mx.Errorf(mx.MissingParam, "Send at least one of master_key, self_signing_key and user_signing_key.")
	}
	master := old[usageMaster].public
	for _, k := range keys {
		if k.usage == usageMaster {
			master = k.public
		}
	}
	if master == "" {
		return mx.Errorf(mx.MissingParam, "There is no master key yet. Send master_key with the others.")
	}
	devices, err := s.o.Devices.Names(q, userID)
	if err != nil {
		return err
	}
	publics := map[string]bool{}
	for _, k := range keys {
		for usage, o := range old {
			if usage != k.usage && o.public == k.public {
				return mx.Errorf(mx.InvalidParam, "The %s key is your %s key. The keys must be different ones.", k.usage, usage)
			}
		}
		if publics[k.public] {
			return mx.Errorf(mx.InvalidParam, "The keys must be different ones.")
		}
		publics[k.public] = true
		if _, taken := devices[k.public]; taken {
			return mx.Errorf(mx.Forbidden, "One of the keys is the same as the ID of one of your devices.")
		}
		if k.usage == usageMaster {
			continue
		}
		if err := verify(k.key, userID, "ed25519:"+master, master); err != nil {
			return &mx.Error{Code: mx.InvalidSignature, Msg: "The " + k.usage + " key must be signed by the master key.", Err: err}
		}
	}
	return nil
}

func (s *Service) storeCrossKeys(tx *store.Tx, userID string, keys []crossKey, old map[string]storedKey) error {
	master := old[usageMaster].public
	for _, k := range keys {
		if k.usage == usageMaster && k.public != master {
			// The other keys hang on the old master key.
			for usage := range old {
				if err := s.dropCrossKey(tx, userID, usage, old[usage].public); err != nil {
					return err
				}
			}
			master, old = k.public, nil
		}
	}
	for _, k := range keys {
		if o, ok := old[k.usage]; ok && o.public != k.public {
			if err := s.dropCrossKey(tx, userID, k.usage, o.public); err != nil {
				return err
			}
		}
		keep := map[string]map[string]string{}
		if k.usage != usageMaster {
			id := "ed25519:" + master
			keep[userID] = map[string]string{id: k.sigs[id]}
		}
		bare, err := withSignatures(k.key, keep, nil)
		if err != nil {
			return err
		}
		if err := upsertCrossSigningKey(tx, userID, k.usage, k.public, bare); err != nil {
			return err
		}
		if k.usage == usageMaster {
			for id, sig := range k.sigs { // the devices that vouch for the new master key
				if pub, err := devicePublicKey(tx, userID, id); err != nil {
					continue
				} else if verify(k.key, userID, id, pub) != nil {
					continue
				}
				if _, err := upsertSignature(tx, signature{userID, k.public, userID, id, sig}); err != nil {
					return err
				}
			}
		}
	}
	return s.Changed(tx, userID)
}

func (s *Service) dropCrossKey(tx *store.Tx, userID, usage, public string) error {
	return deleteCrossSigningKey(tx, userID, usage, public)
}

// devicePublicKey is the ed25519 key of the device that keyID ("ed25519:ID")
// names. Errors: store.ErrNotFound.
func devicePublicKey(q store.Querier, userID, keyID string) (string, error) {
	const prefix = "ed25519:"
	if len(keyID) <= len(prefix) || keyID[:len(prefix)] != prefix {
		return "", store.ErrNotFound
	}
	raw, err := loadDeviceKeys(q, userID, keyID[len(prefix):])
	if err != nil {
		return "", err
	}
	pub, ok := pdu.String(pdu.Path(raw, "keys", keyID))
	if !ok {
		return "", store.ErrNotFound
	}
	return pub, nil
}

type signaturesResponse struct {
	Failures map[string]map[string]failure `json:"failures"`
}

type failure struct {
	Code mx.Code `json:"errcode"`
	Msg  string  `json:"error"`
}

// uploadSignatures stores those signatures that verify, and answers for each
// other one why not. Spec: cs#post_matrixclientv3keyssignaturesupload
func (s *Service) uploadSignatures(ctx context.Context, r *route.Request, in map[string]map[string]mx.Raw) (signaturesResponse, error) {
	out := signaturesResponse{map[string]map[string]failure{}}
	if len(in) > maxSignatureUsers {
		return out, mx.Errorf(mx.TooLarge, "Send signatures for at most %d users at once.", maxSignatureUsers)
	}
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		ownChanged := false
		for user, byKey := range in {
			theirs := false
			for target, object := range byKey {
				fresh, err := storeSignatures(tx, r.UserID, user, target, object)
				var e *mx.Error
				if errors.As(err, &e) {
					if out.Failures[user] == nil {
						out.Failures[user] = map[string]failure{}
					}
					out.Failures[user][target] = failure{e.Code, e.Msg}
					continue
				}
				if err != nil {
					return err
				}
				if fresh && user == r.UserID {
					ownChanged = true
				} else if fresh {
					theirs = true
				}
			}
			if theirs { // only the signer sees a signature on another's key
				if err := upsertSignedUser(tx, r.UserID, user, tx.NextPos()); err != nil {
					return err
				}
				tx.Touch(notify.DevList, r.UserID)
			}
		}
		if ownChanged {
			return s.Changed(tx, r.UserID)
		}
		return nil
	})
	return out, err
}

// storeSignatures checks one signed object: which key it is, that it is that key
// unchanged, who may sign it, and the signatures. fresh: something was added.
func storeSignatures(tx *store.Tx, signer, user, target string, object []byte) (fresh bool, err error) {
	var in struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if len(object) > maxDeviceKeysBytes {
		return false, mx.Errorf(mx.TooLarge, "A signed key has at most %d bytes.", maxDeviceKeysBytes)
	}
	if object = bytes.TrimSpace(object); len(object) == 0 || object[0] != '{' || json.Unmarshal(object, &in) != nil {
		return false, mx.Errorf(mx.InvalidParam, "A signed key must be an object with signatures.")
	}
	sigs := in.Signatures[signer]
	if len(sigs) == 0 {
		return false, mx.Errorf(mx.InvalidSignature, "There is no signature by you in the object.")
	}
	stored, isDevice, err := loadSignable(tx, user, target)
	if err != nil {
		return false, err
	}
	if same, err := sameButSignatures(stored, object); err != nil || !same {
		if err == nil {
			err = mx.Errorf(mx.InvalidSignature, "The signed object is not the key that the server has under this ID.")
		}
		return false, err
	}
	own := "ed25519:" + target
	for keyID, sig := range sigs {
		if isDevice && user == signer && keyID == own {
			continue // the device's own, which it uploaded itself
		}
		pub, err := signingKey(tx, signer, user, isDevice, keyID)
		if err == nil {
			err = verify(object, signer, keyID, pub)
		} else if err != store.ErrNotFound {
			return fresh, err
		}
		if err != nil {
			return fresh, &mx.Error{Code: mx.InvalidSignature, Msg: "The signature by " + keyID + " is wrong, or that key may not sign this one.", Err: err}
		}
		added, err := upsertSignature(tx, signature{user, target, signer, keyID, sig})
		if err != nil {
			return fresh, err
		}
		fresh = fresh || added
	}
	return fresh, nil
}

// loadSignable finds a device's keys or a master key by its public key.
func loadSignable(q store.Querier, user, target string) (key []byte, isDevice bool, err error) {
	key, err = loadDeviceKeys(q, user, target)
	if err != store.ErrNotFound {
		return key, true, err
	}
	cross, err := listCrossSigningKeys(q, user)
	if err != nil {
		return nil, false, err
	}
	if m, ok := cross[usageMaster]; ok && m.public == target {
		return m.key, false, nil
	}
	return nil, false, mx.Errorf(mx.NotFound, "There is no device and no master key with this ID.")
}

func sameButSignatures(a, b []byte) (bool, error) {
	x, err := withSignatures(a, nil, nil)
	if err != nil {
		return false, err
	}
	c, err := pdu.Canonical(b)
	if err != nil {
		return false, err
	}
	y, err := withSignatures(c, nil, nil)
	return bytes.Equal(x, y), err
}

// signingKey is the public key behind keyID, if a key of that kind may sign:
// one's own devices are signed by the self-signing key, one's own master key by
// one's devices, another's master key by the user-signing key, nothing else.
// Errors: store.ErrNotFound.
func signingKey(q store.Querier, signer, user string, isDevice bool, keyID string) (string, error) {
	usage := ""
	switch {
	case user == signer && isDevice:
		usage = usageSelfSigning
	case user == signer:
		return devicePublicKey(q, user, keyID)
	case !isDevice:
		usage = usageUserSigning
	default:
		return "", store.ErrNotFound
	}
	pub, err := loadPublicKey(q, signer, usage)
	if err == nil && keyID != "ed25519:"+pub {
		err = store.ErrNotFound
	}
	return pub, err
}
