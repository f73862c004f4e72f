-- owner: homeserver/devices
CREATE TABLE devices (
	user_id      TEXT NOT NULL,
	device_id    TEXT NOT NULL,
	display_name TEXT NOT NULL DEFAULT '',
	created_ts   INTEGER NOT NULL,           -- ms
	seen_ts      INTEGER NOT NULL DEFAULT 0, -- ms; written at most every few minutes
	seen_ip      TEXT NOT NULL DEFAULT '',
	seen_agent   TEXT NOT NULL DEFAULT '',
	PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

-- Messages that a device has not acknowledged yet. pos orders the stream.
-- owner: homeserver/todevice
CREATE TABLE device_messages (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	pos       INTEGER NOT NULL,
	message   TEXT NOT NULL, -- JSON object as sync gives it: sender, type, content
	PRIMARY KEY (user_id, device_id, pos)
) WITHOUT ROWID;

-- owner: homeserver/todevice
CREATE TABLE device_message_txns (
	user_id    TEXT NOT NULL,
	device_id  TEXT NOT NULL,
	txn_id     TEXT NOT NULL, -- event type and the client's transaction ID
	created_ts INTEGER NOT NULL, -- ms
	PRIMARY KEY (user_id, device_id, txn_id)
) WITHOUT ROWID;
CREATE INDEX device_message_txns_age ON device_message_txns (created_ts);

-- Identity keys of devices, as uploaded, with the device's own signature only.
-- owner: homeserver/e2ee
CREATE TABLE e2ee_device_keys (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	keys      TEXT NOT NULL, -- JSON object
	PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

-- seq keeps the order of upload, in which keys are claimed (MSC4225).
-- owner: homeserver/e2ee
CREATE TABLE e2ee_one_time_keys (
	seq       INTEGER PRIMARY KEY, -- above all those that wait
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	key_id    TEXT NOT NULL,
	key       TEXT NOT NULL, -- JSON
	UNIQUE (user_id, device_id, algorithm, key_id)
);
CREATE INDEX e2ee_one_time_keys_order ON e2ee_one_time_keys (user_id, device_id, algorithm, seq);

-- owner: homeserver/e2ee
CREATE TABLE e2ee_fallback_keys (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	key_id    TEXT NOT NULL,
	key       TEXT NOT NULL, -- JSON
	used      INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (user_id, device_id, algorithm)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_cross_signing_keys (
	user_id    TEXT NOT NULL,
	usage      TEXT NOT NULL, -- master, self_signing or user_signing
	public_key TEXT NOT NULL, -- unpadded base64
	key        TEXT NOT NULL, -- JSON object as uploaded
	PRIMARY KEY (user_id, usage)
) WITHOUT ROWID;

-- Signatures uploaded for keys of e2ee_device_keys and e2ee_cross_signing_keys.
-- owner: homeserver/e2ee
CREATE TABLE e2ee_signatures (
	user_id   TEXT NOT NULL, -- whose key is signed
	target    TEXT NOT NULL, -- device ID or public key
	signer    TEXT NOT NULL, -- user ID
	key_id    TEXT NOT NULL, -- "ed25519:..."
	signature TEXT NOT NULL,
	PRIMARY KEY (user_id, target, signer, key_id)
) WITHOUT ROWID;

-- Position of the newest change to each user's device list.
-- owner: homeserver/e2ee
CREATE TABLE e2ee_list_changes (
	user_id TEXT PRIMARY KEY,
	pos     INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX e2ee_list_changes_pos ON e2ee_list_changes (pos);

-- Who began or ended to share a room: one row for each join and leave.
-- owner: homeserver/e2ee
CREATE TABLE e2ee_sharing (
	room_id TEXT NOT NULL,
	pos     INTEGER NOT NULL,
	user_id TEXT NOT NULL,
	joined  INTEGER NOT NULL, -- 1: joined, 0: left
	PRIMARY KEY (user_id, room_id, pos)
) WITHOUT ROWID;
CREATE INDEX e2ee_sharing_pos ON e2ee_sharing (pos);

-- Whose key a user signed: a change that only the signer sees.
-- owner: homeserver/e2ee
CREATE TABLE e2ee_signed_users (
	signer  TEXT NOT NULL,
	user_id TEXT NOT NULL,
	pos     INTEGER NOT NULL,
	PRIMARY KEY (signer, user_id)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_backups (
	user_id   TEXT NOT NULL,
	version   INTEGER NOT NULL,
	algorithm TEXT NOT NULL,
	auth_data TEXT NOT NULL, -- JSON object
	etag      INTEGER NOT NULL DEFAULT 0, -- grows with each change
	count     INTEGER NOT NULL DEFAULT 0, -- sessions stored
	deleted   INTEGER NOT NULL DEFAULT 0, -- 1: gone, kept so that its number is not used again
	PRIMARY KEY (user_id, version)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_backup_keys (
	user_id             TEXT NOT NULL,
	version             INTEGER NOT NULL,
	room_id             TEXT NOT NULL,
	session_id          TEXT NOT NULL,
	first_message_index INTEGER NOT NULL,
	forwarded_count     INTEGER NOT NULL,
	is_verified         INTEGER NOT NULL,
	session_data        TEXT NOT NULL, -- JSON object, encrypted by the client
	PRIMARY KEY (user_id, version, room_id, session_id)
) WITHOUT ROWID;

-- MSC3814: one dehydrated device for each user.
-- owner: homeserver/e2ee
CREATE TABLE e2ee_dehydrated (
	user_id     TEXT PRIMARY KEY,
	device_id   TEXT NOT NULL,
	device_data TEXT NOT NULL -- JSON object
) WITHOUT ROWID;
