package clients

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
	_ "modernc.org/sqlite"
)

// keeper is a mautrix bot that keeps its keys in a database, as bots in operation do.
type keeper struct {
	*person
	helper *cryptohelper.CryptoHelper
	close  func()
}

// keep starts the bot on a database: a new one makes a new device, an old one goes on.
func (s *server) keep(t *testing.T, ctx context.Context, name, file string) *keeper {
	t.Helper()
	raw, err := sql.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=foreign_keys(1)&_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	db, err := dbutil.NewWithDB(raw, "sqlite3")
	if err != nil {
		t.Fatal(err)
	}
	cli, err := mautrix.NewClient(s.url, "", "")
	if err != nil {
		t.Fatal(err)
	}
	cli.Log = zerolog.Nop()
	first := make(chan struct{}, 1)
	cli.Syncer = firstSync{mautrix.NewDefaultSyncer(), first}
	k := &keeper{person: &person{Client: cli, undecrypted: make(chan error, 16)}}
	if k.helper, err = cryptohelper.NewCryptoHelper(cli, []byte("pickle"), db); err != nil {
		t.Fatal(err)
	}
	k.helper.LoginAs = &mautrix.ReqLogin{Type: mautrix.AuthTypePassword,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name}, Password: password}
	k.helper.DecryptErrorCallback = func(_ *event.Event, err error) { k.undecrypted <- err }
	if err := k.helper.Init(ctx); err != nil {
		t.Fatal(err)
	}
	cli.Crypto = k.helper
	k.bot(t)
	// Not person.run: the database is closed after the sync.
	syncing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := k.SyncWithContext(syncing); err != nil && syncing.Err() == nil {
			t.Errorf("sync of %s: %v", name, err)
		}
	}()
	k.close = sync.OnceFunc(func() {
		k.answering.Wait()
		stop()
		<-done
		if err := k.helper.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(k.close)
	wait(t, ctx, first, "the bot's first sync")
	return k
}

// firstSync tells when the first answer was dealt with: what was said before a new
// device was there must not meet the keys that it gets later.
type firstSync struct {
	*mautrix.DefaultSyncer
	done chan<- struct{}
}

func (s firstSync) ProcessResponse(ctx context.Context, r *mautrix.RespSync, since string) error {
	err := s.DefaultSyncer.ProcessResponse(ctx, r, since)
	select {
	case s.done <- struct{}{}:
	default:
	}
	return err
}

// backUp makes a key backup as the specification has it, puts its key into the secret
// storage, and all of the bot's room keys into it: the library leaves this to the bot.
func (k *keeper) backUp(ctx context.Context, recoveryKey string) (id.KeyBackupVersion, error) {
	m := k.helper.Machine()
	secret, err := backup.NewMegolmBackupKey()
	if err != nil {
		return "", err
	}
	data := backup.MegolmAuthData{PublicKey: id.Ed25519(base64.RawStdEncoding.EncodeToString(secret.PublicKey().Bytes()))}
	signed, err := m.CrossSigningKeys.MasterKey.SignJSON(map[string]any{"public_key": data.PublicKey})
	if err != nil {
		return "", err
	}
	data.Signatures = signatures.NewSingleSignature(k.UserID, id.KeyAlgorithmEd25519, m.CrossSigningKeys.MasterKey.PublicKey().String(), signed)
	made, err := k.CreateKeyBackupVersion(ctx, &mautrix.ReqRoomKeysVersionCreate[backup.MegolmAuthData]{Algorithm: id.KeyBackupAlgorithmMegolmBackupV1, AuthData: data})
	if err != nil {
		return "", err
	}
	storage, err := k.unlock(ctx, recoveryKey)
	if err != nil {
		return "", err
	}
	if err := m.SSSS.SetEncryptedAccountData(ctx, event.AccountDataMegolmBackupKey, secret.Bytes(), storage); err != nil {
		return "", err
	}
	sessions, err := m.CryptoStore.GetGroupSessionsWithoutKeyBackupVersion(ctx, made.Version).AsList()
	if err != nil {
		return "", err
	}
	req := &mautrix.ReqKeyBackup{Rooms: map[id.RoomID]mautrix.ReqRoomKeyBackup{}}
	for _, s := range sessions {
		first := s.Internal.FirstKnownIndex()
		exported, err := s.Internal.Export(first)
		if err != nil {
			return "", err
		}
		chain := s.ForwardingChains
		if chain == nil {
			chain = []string{}
		}
		sealed, err := backup.EncryptSessionData(secret, backup.MegolmSessionData{Algorithm: id.AlgorithmMegolmV1, ForwardingKeyChain: chain,
			SenderClaimedKeys: backup.SenderClaimedKeys{Ed25519: s.SigningKey}, SenderKey: s.SenderKey, SessionKey: string(exported)})
		if err != nil {
			return "", err
		}
		body, err := json.Marshal(sealed)
		if err != nil {
			return "", err
		}
		if req.Rooms[s.RoomID].Sessions == nil {
			req.Rooms[s.RoomID] = mautrix.ReqRoomKeyBackup{Sessions: map[id.SessionID]mautrix.ReqKeyBackupData{}}
		}
		req.Rooms[s.RoomID].Sessions[s.ID()] = mautrix.ReqKeyBackupData{FirstMessageIndex: int(first), ForwardedCount: len(chain), IsVerified: true, SessionData: body}
	}
	put, err := k.PutKeysInBackup(ctx, made.Version, req)
	if err != nil {
		return "", err
	}
	if put.Count != len(sessions) || len(sessions) == 0 {
		return "", errors.New("the backup has another number of keys than were put into it")
	}
	return made.Version, nil
}

// unlock gives the key of the secret storage. Errors: ssss.ErrIncorrectSSSSKey
func (k *keeper) unlock(ctx context.Context, recoveryKey string) (*ssss.Key, error) {
	keyID, data, err := k.helper.Machine().SSSS.GetDefaultKeyData(ctx)
	if err != nil {
		return nil, err
	}
	return data.VerifyRecoveryKey(keyID, recoveryKey)
}

// read fetches an event and decrypts it with the keys that the bot has.
func (k *keeper) read(ctx context.Context, room id.RoomID, ev id.EventID) (string, error) {
	e, err := k.GetEvent(ctx, room, ev)
	if err != nil {
		return "", err
	}
	if err := e.Content.ParseRaw(e.Type); err != nil {
		return "", err
	}
	plain, err := k.helper.Decrypt(ctx, e)
	if err != nil {
		return "", err
	}
	return plain.Content.AsMessage().Body, nil
}

// A bot with mautrix-go keeps its identity and a key backup. Restarted on its own
// database it is the device it was and answers what it missed, once; on a new one it
// is a device that nobody trusts and that reads nothing old, until it has the recovery
// key.
func TestBotKeepsItsKeys(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := start(t)
	s.addUser(t, "alice")
	botID := s.addUser(t, "keeper")
	alice := s.login(t, ctx, "alice")
	type answer struct {
		id   id.EventID
		body string
	}
	answers, joined := make(chan answer, 8), make(chan struct{}, 1)
	syncer := alice.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnEventType(event.EventMessage, func(_ context.Context, ev *event.Event) {
		if ev.Sender == botID && ev.Mautrix.WasEncrypted {
			answers <- answer{ev.ID, ev.Content.AsMessage().Body}
		}
	})
	syncer.OnEventType(event.StateMember, func(_ context.Context, ev *event.Event) {
		if ev.GetStateKey() == botID.String() && ev.Content.AsMember().Membership == event.MembershipJoin {
			joined <- struct{}{}
		}
	})
	alice.run(t, ctx)

	dir := t.TempDir()
	bot := s.keep(t, ctx, "keeper", filepath.Join(dir, "first.db"))
	device := bot.DeviceID
	recoveryKey, err := bot.helper.Machine().GenerateAndVerifyWithRecoveryKey(ctx)
	if err != nil || recoveryKey == "" {
		t.Fatal(recoveryKey, err)
	}
	room, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{botID}, InitialState: []*event.Event{{
		Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, ctx, joined, "the bot's join")
	say := func(text string) id.EventID {
		t.Helper()
		sent, err := alice.SendText(ctx, room.RoomID, text)
		if err != nil {
			t.Fatal(err)
		}
		return sent.EventID
	}
	expect := func(want string) id.EventID {
		t.Helper()
		got := wait(t, ctx, answers, "the bot's answer")
		if got.body != want {
			t.Fatalf("the bot says %q, want %q", got.body, want)
		}
		return got.id
	}
	// trust is what alice's client thinks of a device of the bot.
	trust := func(device id.DeviceID) id.TrustState {
		t.Helper()
		m := alice.Crypto.(*cryptohelper.CryptoHelper).Machine()
		if _, err := m.FetchKeys(ctx, []id.UserID{botID}, true); err != nil {
			t.Fatal(err)
		}
		d, err := m.CryptoStore.GetDevice(ctx, botID, device)
		if err != nil || d == nil {
			t.Fatalf("alice does not know the device %s: %v", device, err)
		}
		state, err := m.ResolveTrustContext(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
	old, oldAnswer := say("ping 1"), expect("pong 1")
	if got := trust(device); got < id.TrustStateCrossSignedTOFU {
		t.Errorf("the first device is %v to others after the bot signed it", got)
	}
	version, err := bot.backUp(ctx, recoveryKey)
	if err != nil {
		t.Fatal(err)
	}

	// Away, and back on the same database.
	bot.close()
	say("ping 2")
	bot = s.keep(t, ctx, "keeper", filepath.Join(dir, "first.db"))
	expect("pong 2")
	if bot.DeviceID != device {
		t.Errorf("after the restart the bot is the device %s, before it was %s", bot.DeviceID, device)
	}
	if got, err := bot.read(ctx, room.RoomID, old); err != nil || got != "ping 1" {
		t.Errorf("after the restart the old message is %q, %v", got, err)
	}
	say("ping 3")
	expect("pong 3")
	bot.close()

	// A new database: another device.
	second := s.keep(t, ctx, "keeper", filepath.Join(dir, "second.db"))
	if second.DeviceID == device {
		t.Fatal("a bot with a new database is the old device")
	}
	if got, err := second.read(ctx, room.RoomID, old); !errors.Is(err, crypto.ErrNoSessionFound) {
		t.Errorf("without any key the new device reads %q, %v", got, err)
	}
	if got := trust(second.DeviceID); got >= id.TrustStateCrossSignedTOFU {
		t.Errorf("the new device is %v to others before it has the recovery key", got)
	}
	m := second.helper.Machine()
	wrong, err := ssss.NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.VerifyWithRecoveryKey(ctx, wrong.RecoveryKey()); !errors.Is(err, ssss.ErrIncorrectSSSSKey) {
		t.Errorf("another recovery key: %v", err)
	}
	if err := m.VerifyWithRecoveryKey(ctx, recoveryKey); err != nil {
		t.Fatal(err)
	}
	if got := trust(second.DeviceID); got < id.TrustStateCrossSignedTOFU {
		t.Errorf("the new device is %v to others after it has the recovery key", got)
	}
	storage, err := second.unlock(ctx, recoveryKey)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.SSSS.GetDecryptedAccountData(ctx, event.AccountDataMegolmBackupKey, storage)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := backup.MegolmBackupKeyFromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.DownloadAndStoreLatestKeyBackup(ctx, secret); err != nil || got != version {
		t.Fatalf("backup %q, want %q: %v", got, version, err)
	}
	for ev, want := range map[id.EventID]string{old: "ping 1", oldAnswer: "pong 1"} {
		if got, err := second.read(ctx, room.RoomID, ev); err != nil || got != want {
			t.Errorf("from the backup: %q, %v; want %q", got, err, want)
		}
	}
	say("ping 4")
	expect("pong 4")
	for len(second.undecrypted) > 0 {
		// The new device's first sync has what was said before it was there.
		if err := <-second.undecrypted; !errors.Is(err, crypto.ErrNoSessionFound) {
			t.Errorf("the new device could not decrypt: %v", err)
		}
	}
	second.close()
	s.onlyCiphertext(t, alice.Client, room.RoomID, 8)
	select {
	case more := <-answers:
		t.Errorf("the bot answered twice: %q", more.body)
	default:
	}
}
