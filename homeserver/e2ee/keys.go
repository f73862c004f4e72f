package e2ee

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Limits of what one device may store.
const (
	maxKeyBytes        = 16 << 10
	maxDeviceKeysBytes = 48 << 10
	maxKeyNameBytes    = 255
	maxOneTimeKeys     = 1000 // of one device
	maxQueryUsers      = 10000
)

const signedCurve = "signed_curve25519"

func (s *Service) keyRoutes() []route.Route {
	return []route.Route{
		{Op: "uploadKeys", Pattern: "POST /_matrix/client/v3/keys/upload",
			Aliases: []string{"/_matrix/client/r0/keys/upload", "/_matrix/client/unstable/keys/upload", "/_matrix/client/r0/keys/upload/{ignored}"},
			Auth:    route.User, Limit: route.Reads, Handle: route.JSON(s.upload)},
		{Op: "queryKeys", Pattern: "POST /_matrix/client/v3/keys/query",
			Aliases: []string{"/_matrix/client/r0/keys/query", "/_matrix/client/unstable/keys/query"},
			Auth:    route.User, Limit: route.Reads, Handle: route.JSON(s.query)},
		{Op: "claimKeys", Pattern: "POST /_matrix/client/v3/keys/claim",
			Aliases: []string{"/_matrix/client/r0/keys/claim", "/_matrix/client/unstable/keys/claim"},
			Auth:    route.User, Limit: route.Reads, Handle: route.JSON(s.claim)},
		{Op: "getKeysChanges", Pattern: "GET /_matrix/client/v3/keys/changes",
			Aliases: []string{"/_matrix/client/r0/keys/changes", "/_matrix/client/unstable/keys/changes"},
			Auth:    route.User, Limit: route.Reads, Handle: route.Get(s.changes)},
	}
}

type uploadRequest struct {
	DeviceKeys           mx.Raw            `json:"device_keys"`
	OneTimeKeys          map[string]mx.Raw `json:"one_time_keys"`
	FallbackKeys         map[string]mx.Raw `json:"fallback_keys"`
	UnstableFallbackKeys map[string]mx.Raw `json:"org.matrix.msc2732.fallback_keys"`
}

type uploadResponse struct {
	Counts map[string]int `json:"one_time_key_counts"`
}

// Spec: cs#post_matrixclientv3keysupload
func (s *Service) upload(ctx context.Context, r *route.Request, in uploadRequest) (out uploadResponse, err error) {
	if r.DeviceID == "" {
		return out, mx.Errorf(mx.InvalidParam, "Keys belong to a device; this access token has none.")
	}
	if in.FallbackKeys == nil {
		in.FallbackKeys = in.UnstableFallbackKeys
	}
	u, err := parseUpload(r.UserID, r.DeviceID, in)
	if err != nil {
		return out, err
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		c, err := s.store(tx, r.UserID, r.DeviceID, u)
		if err == nil {
			out.Counts = c.otk
		}
		return err
	})
	return out, err
}

// parsedUpload is an upload in canonical form.
type parsedUpload struct {
	device            []byte // nil: none
	signatures        []signature
	oneTime, fallback []namedKey
}

type namedKey struct {
	algorithm, id string
	key           []byte
}

// signature is one on a key of userID, by a key of signer.
type signature struct {
	userID, target, signer, keyID, sig string
}

func parseUpload(userID, deviceID string, in uploadRequest) (u parsedUpload, err error) {
	if in.DeviceKeys != nil {
		if u.device, u.signatures, err = parseDeviceKeys(userID, deviceID, in.DeviceKeys); err != nil {
			return u, err
		}
	}
	if u.oneTime, err = parseNamedKeys(in.OneTimeKeys); err != nil {
		return u, err
	}
	if u.fallback, err = parseNamedKeys(in.FallbackKeys); err != nil {
		return u, err
	}
	seen := map[string]bool{}
	for _, k := range u.fallback {
		if seen[k.algorithm] {
			return u, mx.Errorf(mx.InvalidParam, "There can be one fallback key for each algorithm.")
		}
		seen[k.algorithm] = true
	}
	return u, nil
}

// parseDeviceKeys checks device keys and splits off the signatures that are not
// the device's own: those are stored only if they verify.
func parseDeviceKeys(userID, deviceID string, raw []byte) (keys []byte, sigs []signature, err error) {
	if len(raw) > maxDeviceKeysBytes {
		return nil, nil, mx.Errorf(mx.TooLarge, "Device keys have at most %d bytes.", maxDeviceKeysBytes)
	}
	var d struct {
		UserID     *string                      `json:"user_id"`
		DeviceID   *string                      `json:"device_id"`
		Algorithms []string                     `json:"algorithms"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if bytes.TrimSpace(raw)[0] != '{' || json.Unmarshal(raw, &d) != nil {
		return nil, nil, mx.Errorf(mx.BadJSON, "The field %q must be an object with user_id, device_id, algorithms, keys and signatures. Leave it out if there is nothing to change.", "device_keys")
	}
	if d.UserID == nil || *d.UserID != userID || d.DeviceID == nil || *d.DeviceID != deviceID {
		return nil, nil, mx.Errorf(mx.InvalidParam, "The user_id and device_id of device keys must be those of the access token: %s, %s.", userID, deviceID)
	}
	c, err := pdu.Canonical(raw)
	if err != nil {
		return nil, nil, err
	}
	own := map[string]string{}
	for signer, byKey := range d.Signatures {
		for keyID, sig := range byKey {
			if signer == userID && keyID == "ed25519:"+deviceID {
				own[keyID] = sig
			} else if signer == userID {
				sigs = append(sigs, signature{userID, deviceID, signer, keyID, sig})
			}
		}
	}
	stored := map[string]map[string]string{}
	if len(own) > 0 {
		stored[userID] = own
	}
	keys, err = withSignatures(c, stored, nil)
	return keys, sigs, err
}

// withSignatures replaces an object's signatures, and its unsigned (nil: none).
func withSignatures(object []byte, sigs map[string]map[string]string, unsigned any) ([]byte, error) {
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	delete(m, "signatures")
	delete(m, "unsigned")
	if len(sigs) > 0 {
		m["signatures"] = sigs
	}
	if unsigned != nil {
		m["unsigned"] = unsigned
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return pdu.Canonical(b)
}

// parseNamedKeys gives the keys of one upload in the order of their names, in which
// they are then claimed: the specification leaves that order open.
func parseNamedKeys(in map[string]mx.Raw) ([]namedKey, error) {
	if len(in) > maxOneTimeKeys {
		return nil, mx.Errorf(mx.TooLarge, "A device has at most %d one-time keys.", maxOneTimeKeys)
	}
	var out []namedKey
	for _, name := range slices.Sorted(maps.Keys(in)) {
		raw := in[name]
		alg, id, ok := strings.Cut(name, ":")
		if !ok || alg == "" || len(name) > maxKeyNameBytes {
			return nil, mx.Errorf(mx.InvalidParam, "A key is named algorithm:id, with at most %d bytes; %.80q is not.", maxKeyNameBytes, name)
		}
		if len(raw) > maxKeyBytes {
			return nil, mx.Errorf(mx.TooLarge, "A key has at most %d bytes.", maxKeyBytes)
		}
		if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' && raw[0] != '"' {
			return nil, mx.Errorf(mx.BadJSON, "The key %.80q must be an object or a string.", name)
		}
		key, err := pdu.Canonical(raw)
		if err != nil {
			return nil, err
		}
		out = append(out, namedKey{alg, id, key})
	}
	return out, nil
}

func (s *Service) store(tx *store.Tx, userID, deviceID string, u parsedUpload) (*deviceCounts, error) {
	if u.device != nil || len(u.oneTime) > 0 || len(u.fallback) > 0 {
		// A device that was signed out while the request was under way must not leave
		// keys that nobody has the private parts of.
		devices, err := s.o.Devices.Names(tx, userID)
		if err != nil {
			return nil, err
		}
		if _, ok := devices[deviceID]; !ok {
			return nil, mx.Errorf(mx.UnknownToken, "The device was signed out.")
		}
	}
	if u.device != nil {
		if err := s.storeDevice(tx, userID, deviceID, u); err != nil {
			return nil, err
		}
	}
	if len(u.oneTime) == 0 && len(u.fallback) == 0 {
		return loadCounts(tx, userID, deviceID)
	}
	for _, k := range u.oneTime {
		old, err := loadOneTimeKey(tx, userID, deviceID, k.algorithm, k.id)
		switch {
		case err == store.ErrNotFound:
			if err := insertOneTimeKey(tx, userID, deviceID, k); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		case !bytes.Equal(old, k.key):
			// The words are what clients look for to report it.
			return nil, mx.Errorf(mx.Unknown, "One time key %s:%s already exists. Old key: %s; new key: %s", k.algorithm, k.id, old, k.key)
		}
	}
	for _, k := range u.fallback {
		if err := upsertFallbackKey(tx, userID, deviceID, k); err != nil {
			return nil, err
		}
	}
	c, err := s.recount(tx, userID, deviceID)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, v := range c.otk {
		n += v
	}
	if n > maxOneTimeKeys {
		return nil, mx.Errorf(mx.TooLarge, "A device has at most %d one-time keys.", maxOneTimeKeys)
	}
	return c, nil
}

func (s *Service) storeDevice(tx *store.Tx, userID, deviceID string, u parsedUpload) error {
	old, err := loadDeviceKeys(tx, userID, deviceID)
	if err != nil && err != store.ErrNotFound {
		return err
	}
	changed := !bytes.Equal(old, u.device)
	if changed {
		if clash, err := isPublicKey(tx, userID, deviceID); err != nil || clash {
			if clash {
				err = mx.Errorf(mx.InvalidParam, "The device's ID is the same as one of your cross-signing keys.")
			}
			return err
		}
		if err := upsertDeviceKeys(tx, userID, deviceID, u.device); err != nil {
			return err
		}
		// What others signed was the old keys.
		if err := deleteSignaturesOn(tx, userID, deviceID); err != nil {
			return err
		}
	}
	for _, sig := range u.signatures {
		pub, err := loadPublicKey(tx, userID, usageSelfSigning)
		if err == store.ErrNotFound || err == nil && sig.keyID != "ed25519:"+pub {
			continue
		}
		if err != nil {
			return err
		}
		full, err := withSignatures(u.device, map[string]map[string]string{sig.signer: {sig.keyID: sig.sig}}, nil)
		if err != nil {
			return err
		}
		if verify(full, sig.signer, sig.keyID, pub) != nil {
			continue
		}
		fresh, err := upsertSignature(tx, sig)
		if err != nil {
			return err
		}
		changed = changed || fresh
	}
	if changed {
		return s.Changed(tx, userID)
	}
	return nil
}

type queryRequest struct {
	DeviceKeys map[string][]string `json:"device_keys"`
}

type queryResponse struct {
	DeviceKeys  map[string]map[string]mx.Raw `json:"device_keys"`
	Failures    map[string]struct{}          `json:"failures"`
	Master      map[string]mx.Raw            `json:"master_keys"`
	SelfSigning map[string]mx.Raw            `json:"self_signing_keys"`
	UserSigning map[string]mx.Raw            `json:"user_signing_keys"`
}

// Spec: cs#post_matrixclientv3keysquery
func (s *Service) query(ctx context.Context, r *route.Request, in queryRequest) (out queryResponse, err error) {
	if in.DeviceKeys == nil {
		return out, mx.Errorf(mx.MissingParam, "Name the users in %q.", "device_keys")
	}
	if len(in.DeviceKeys) > maxQueryUsers {
		return out, mx.Errorf(mx.TooLarge, "Ask for at most %d users at once.", maxQueryUsers)
	}
	out = queryResponse{map[string]map[string]mx.Raw{}, map[string]struct{}{}, map[string]mx.Raw{}, map[string]mx.Raw{}, map[string]mx.Raw{}}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		for user, devices := range in.DeviceKeys {
			if server := mx.Domain(user); server != s.o.ServerName {
				if server != "" {
					out.Failures[server] = struct{}{}
				}
				continue
			}
			if err := s.queryUser(q, r.UserID, user, devices, &out); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func (s *Service) queryUser(q store.Querier, asker, user string, devices []string, out *queryResponse) error {
	keys, err := listDeviceKeys(q, user)
	if err != nil {
		return err
	}
	cross, err := listCrossSigningKeys(q, user)
	if err != nil {
		return err
	}
	// The specification leaves an unknown user out. Who has no devices is told by an
	// empty object, as clients ask again and again for whoever is missing; and so that
	// nobody learns by asking who has an account, that goes for all.
	found := map[string]mx.Raw{}
	out.DeviceKeys[user] = found
	if len(keys) == 0 && len(cross) == 0 {
		return nil
	}
	names, err := s.o.Devices.Names(q, user)
	if err != nil {
		return err
	}
	sigs, err := listSignatures(q, user, asker)
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, d := range devices {
		want[d] = true
	}
	for id, raw := range keys {
		if len(want) > 0 && !want[id] {
			continue
		}
		var unsigned any
		if names[id] != "" {
			unsigned = map[string]string{"device_display_name": names[id]}
		}
		if found[id], err = merged(raw, sigs[id], unsigned); err != nil {
			return err
		}
	}
	for usage, k := range cross {
		full, err := merged(k.key, sigs[k.public], nil)
		if err != nil {
			return err
		}
		switch usage {
		case usageMaster:
			out.Master[user] = full
		case usageSelfSigning:
			out.SelfSigning[user] = full
		case usageUserSigning:
			if user == asker {
				out.UserSigning[user] = full
			}
		}
	}
	return nil
}

// merged adds signatures to those that a stored key has, and its unsigned.
func merged(raw []byte, more []signature, unsigned any) ([]byte, error) {
	if len(more) == 0 && unsigned == nil {
		return raw, nil
	}
	var own struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &own); err != nil {
		return nil, fmt.Errorf("a stored key: %w", err)
	}
	all := own.Signatures
	if all == nil {
		all = map[string]map[string]string{}
	}
	for _, sig := range more {
		if all[sig.signer] == nil {
			all[sig.signer] = map[string]string{}
		}
		all[sig.signer][sig.keyID] = sig.sig
	}
	return withSignatures(raw, all, unsigned)
}

type claimRequest struct {
	OneTimeKeys map[string]map[string]string `json:"one_time_keys"`
}

type claimResponse struct {
	OneTimeKeys map[string]map[string]map[string]mx.Raw `json:"one_time_keys"`
	Failures    map[string]struct{}                     `json:"failures"`
}

// claim gives out one-time keys in the order of their upload (MSC4225), or else
// the fallback key, which stays. One transaction: no key is given twice.
// Spec: cs#post_matrixclientv3keysclaim
func (s *Service) claim(ctx context.Context, _ *route.Request, in claimRequest) (out claimResponse, err error) {
	if in.OneTimeKeys == nil {
		return out, mx.Errorf(mx.MissingParam, "Name users, devices and algorithms in %q.", "one_time_keys")
	}
	if len(in.OneTimeKeys) > maxQueryUsers {
		return out, mx.Errorf(mx.TooLarge, "Ask for at most %d users at once.", maxQueryUsers)
	}
	out = claimResponse{map[string]map[string]map[string]mx.Raw{}, map[string]struct{}{}}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for user, devices := range in.OneTimeKeys {
			if server := mx.Domain(user); server != s.o.ServerName {
				if server != "" {
					out.Failures[server] = struct{}{}
				}
				continue
			}
			for device, algorithm := range devices {
				k, ok, err := s.claimOne(tx, user, device, algorithm)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
				if out.OneTimeKeys[user] == nil {
					out.OneTimeKeys[user] = map[string]map[string]mx.Raw{}
				}
				out.OneTimeKeys[user][device] = map[string]mx.Raw{k.algorithm + ":" + k.id: k.key}
			}
		}
		return nil
	})
	return out, err
}

func (s *Service) claimOne(tx *store.Tx, user, device, algorithm string) (k namedKey, ok bool, err error) {
	k, err = takeOneTimeKey(tx, user, device, algorithm)
	if err == store.ErrNotFound {
		var used bool
		if k, used, err = loadFallbackKey(tx, user, device, algorithm); err == store.ErrNotFound {
			return k, false, nil
		}
		if err != nil || used {
			return k, err == nil, err
		}
		err = markFallbackUsed(tx, user, device, algorithm)
	}
	if err != nil {
		return k, false, err
	}
	_, err = s.recount(tx, user, device)
	return k, err == nil, err
}

type changesResponse struct {
	Changed []string `json:"changed"`
	Left    []string `json:"left"`
}

// Spec: cs#get_matrixclientv3keyschanges
func (s *Service) changes(ctx context.Context, r *route.Request) (out changesResponse, err error) {
	for _, name := range []string{"from", "to"} {
		if r.Query(name) == "" {
			return out, mx.Errorf(mx.MissingParam, "Give the tokens of two syncs in from and to.")
		}
	}
	from, ok := tokenPos(r.Query("from"))
	if !ok {
		return out, mx.Errorf(mx.InvalidParam, "The parameter %q must be a token of sync.", "from")
	}
	to := s.o.DB.Pos()
	if t := r.Query("to"); t != "" {
		n, ok := tokenPos(t)
		if !ok {
			return out, mx.Errorf(mx.InvalidParam, "The parameter %q must be a token of sync.", "to")
		}
		to = min(to, n)
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		out.Changed, out.Left, err = s.ListChanges(q, r.UserID, from, to)
		return err
	})
	if out.Changed == nil {
		out.Changed = []string{}
	}
	if out.Left == nil {
		out.Left = []string{}
	}
	return out, err
}

// tokenPos is the position in a sync token: the number after its first letter.
func tokenPos(t string) (int64, bool) {
	if len(t) < 2 || t[0] < 'a' || t[0] > 'z' {
		return 0, false
	}
	end := 1
	for end < len(t) && t[end] >= '0' && t[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(t[1:end], 10, 64)
	return n, err == nil
}
