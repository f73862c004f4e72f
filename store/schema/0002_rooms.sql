-- owner: homeserver/rooms
-- The server's signing keys; events are signed with the newest that is not expired.
CREATE TABLE server_keys (
	key_id  TEXT PRIMARY KEY, -- "ed25519:a1b2c3"
	private BLOB NOT NULL,    -- Ed25519 seed
	created INTEGER NOT NULL, -- ms
	expired INTEGER           -- ms; NULL: in use
) WITHOUT ROWID;

-- owner: homeserver/rooms
CREATE TABLE rooms (
	nid     INTEGER PRIMARY KEY,
	room_id TEXT NOT NULL UNIQUE,
	version TEXT NOT NULL,
	public  INTEGER NOT NULL DEFAULT 0, -- listed in the room directory
	created INTEGER NOT NULL            -- ms
);

-- owner: homeserver/rooms
-- Every event once. Redaction replaces json by what it leaves.
CREATE TABLE events (
	pos         INTEGER PRIMARY KEY,
	room        INTEGER NOT NULL,
	event_id    TEXT NOT NULL UNIQUE,
	type        TEXT NOT NULL,
	state_key   TEXT,
	sender      TEXT NOT NULL,
	ts          INTEGER NOT NULL, -- origin_server_ts
	state_group INTEGER NOT NULL, -- state before the event; 0: none
	replaces    INTEGER NOT NULL DEFAULT 0, -- pos of the state event it took the place of
	device      TEXT,
	txn         TEXT,             -- the device's transaction ID
	relates_to  TEXT,
	rel_type    TEXT,
	redacted_by TEXT,             -- event ID of the redaction
	extra       TEXT,             -- what our own server puts in unsigned
	json        BLOB NOT NULL     -- the signed PDU
);
CREATE INDEX events_room ON events (room, pos);
CREATE INDEX events_state ON events (room, type, state_key, pos) WHERE state_key IS NOT NULL;
CREATE UNIQUE INDEX events_txn ON events (sender, device, txn, room, type) WHERE txn IS NOT NULL;
CREATE INDEX events_relation ON events (relates_to, rel_type, pos) WHERE relates_to IS NOT NULL;

-- owner: homeserver/rooms
-- A group is the state after the state event at position id: the group prev with
-- that event's change, or a snapshot (prev NULL), which state_snapshots holds whole.
CREATE TABLE state_groups (
	id        INTEGER PRIMARY KEY,
	prev      INTEGER,
	chain     INTEGER NOT NULL, -- groups back to the snapshot; 0: it is one
	type      TEXT NOT NULL,
	state_key TEXT NOT NULL
);

-- owner: homeserver/rooms
CREATE TABLE state_snapshots (
	state_group INTEGER NOT NULL,
	type        TEXT NOT NULL,
	state_key   TEXT NOT NULL,
	event       INTEGER NOT NULL, -- pos
	PRIMARY KEY (state_group, type, state_key)
) WITHOUT ROWID;

-- owner: homeserver/rooms
-- The current state.
CREATE TABLE room_state (
	room      INTEGER NOT NULL,
	type      TEXT NOT NULL,
	state_key TEXT NOT NULL,
	event     INTEGER NOT NULL, -- pos
	PRIMARY KEY (room, type, state_key)
) WITHOUT ROWID;

-- owner: homeserver/rooms
-- The current memberships, also of those who left.
CREATE TABLE room_members (
	user_id    TEXT NOT NULL,
	room       INTEGER NOT NULL,
	membership TEXT NOT NULL,
	sender     TEXT NOT NULL,
	event      INTEGER NOT NULL, -- pos
	forgotten  INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (user_id, room)
) WITHOUT ROWID;
CREATE INDEX room_members_room ON room_members (room, membership, user_id);

-- owner: homeserver/rooms
CREATE TABLE room_aliases (
	alias   TEXT PRIMARY KEY,
	room    INTEGER NOT NULL,
	creator TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX room_aliases_room ON room_aliases (room);
