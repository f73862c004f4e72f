-- UnifiedPush: phones that fetch their notifications from here. Times are milliseconds.
-- IDs are given out in order, never twice while the program runs.
-- owner: homeserver/push/unifiedpush
CREATE TABLE up_phones (
	id          INTEGER PRIMARY KEY,
	user_id     TEXT NOT NULL,
	device_id   TEXT NOT NULL,        -- the Matrix device with which it ends; '': none
	name        TEXT NOT NULL,
	secret_hash BLOB NOT NULL UNIQUE, -- SHA-256
	created     INTEGER NOT NULL,
	last_seen   INTEGER NOT NULL      -- last connection, exact to the hour; 0: never
);
CREATE INDEX up_phones_user ON up_phones (user_id);

-- owner: homeserver/push/unifiedpush
CREATE TABLE up_topics (
	id        INTEGER PRIMARY KEY,
	topic     TEXT NOT NULL UNIQUE,
	user_id   TEXT NOT NULL,
	phone_id  INTEGER NOT NULL, -- 0: it has ended
	last_seen INTEGER NOT NULL  -- last subscription, exact to the hour, or when it ended
);
CREATE INDEX up_topics_phone ON up_topics (phone_id);

-- Messages that wait for their phone or that it may ask for again.
-- owner: homeserver/push/unifiedpush
CREATE TABLE up_messages (
	id       INTEGER PRIMARY KEY,
	msg_id   TEXT NOT NULL,
	topic_id INTEGER NOT NULL,
	phone_id INTEGER NOT NULL,
	ts       INTEGER NOT NULL,
	expires  INTEGER NOT NULL,
	body     BLOB NOT NULL
);
CREATE INDEX up_messages_topic ON up_messages (topic_id, id);
CREATE INDEX up_messages_phone ON up_messages (phone_id, id);
CREATE INDEX up_messages_expires ON up_messages (expires);
