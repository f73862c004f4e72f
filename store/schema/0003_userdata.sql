-- One row for each local account. fields holds the free profile fields (MSC4133),
-- a JSON object without displayname and avatar_url.
-- owner: homeserver/userdata
CREATE TABLE user_profiles (
	user_id     TEXT PRIMARY KEY,
	displayname TEXT NOT NULL DEFAULT '',
	avatar_url  TEXT NOT NULL DEFAULT '',
	fields      TEXT NOT NULL DEFAULT '{}',
	hidden      INTEGER NOT NULL DEFAULT 0 -- 1: not found by the user directory (deactivated)
) WITHOUT ROWID;

-- Global account data has room_id ''. m.push_rules is not here, see user_push_rules.
-- owner: homeserver/userdata
CREATE TABLE user_account_data (
	user_id TEXT NOT NULL,
	room_id TEXT NOT NULL,
	type    TEXT NOT NULL,
	content TEXT NOT NULL, -- JSON object
	pos     INTEGER NOT NULL,
	PRIMARY KEY (user_id, room_id, type)
) WITHOUT ROWID;
CREATE INDEX user_account_data_pos ON user_account_data (user_id, pos);

-- What a user changed in the default push rules, and the rules of their own.
-- owner: homeserver/userdata
CREATE TABLE user_push_rules (
	user_id TEXT PRIMARY KEY,
	changes TEXT NOT NULL, -- JSON
	pos     INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: homeserver/userdata
CREATE TABLE user_filters (
	user_id   TEXT NOT NULL,
	filter_id TEXT NOT NULL, -- from a hash of the content: equal filters have one ID
	filter    TEXT NOT NULL, -- JSON object
	PRIMARY KEY (user_id, filter_id)
) WITHOUT ROWID;

-- The newest receipt of each user, type and thread of a room.
-- owner: homeserver/ephemeral
CREATE TABLE room_receipts (
	room_id   TEXT NOT NULL,
	user_id   TEXT NOT NULL,
	type      TEXT NOT NULL, -- m.read, m.read.private, or m.fully_read only to keep the marker monotonic
	thread_id TEXT NOT NULL, -- '': unthreaded
	event_id  TEXT NOT NULL,
	event_pos INTEGER NOT NULL, -- position of the event: receipts only move forward
	ts        INTEGER NOT NULL, -- ms
	pos       INTEGER NOT NULL,
	PRIMARY KEY (room_id, user_id, type, thread_id)
) WITHOUT ROWID;
CREATE INDEX room_receipts_pos ON room_receipts (room_id, pos);
CREATE INDEX room_receipts_private ON room_receipts (user_id, pos) WHERE type = 'm.read.private';

-- How far a user's unread notifications of a room were counted, and what was found:
-- a shortcut, from which counting goes on after a restart.
-- owner: homeserver/push
CREATE TABLE push_counts (
	user_id TEXT NOT NULL,
	room_id TEXT NOT NULL,
	pos     INTEGER NOT NULL,
	data    TEXT NOT NULL, -- JSON
	PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;

-- Rooms in which somebody typed since the server started. After a start the end
-- of typing is sent there, since nobody knows any more who typed.
-- owner: homeserver/ephemeral
CREATE TABLE room_typing (
	room_id TEXT PRIMARY KEY
) WITHOUT ROWID;
