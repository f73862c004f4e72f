-- Pushers: where a user's notifications are sent to, and how far that came.
-- owner: homeserver/push/pusher
CREATE TABLE pushers (
	id          INTEGER PRIMARY KEY,
	user_id     TEXT NOT NULL,
	device_id   TEXT NOT NULL, -- whose session set it; it ends with the device
	app_id      TEXT NOT NULL,
	pushkey     TEXT NOT NULL,
	app_name    TEXT NOT NULL,
	device_name TEXT NOT NULL,
	profile_tag TEXT NOT NULL,
	lang        TEXT NOT NULL,
	url         TEXT NOT NULL,
	data        TEXT NOT NULL,    -- JSON, with the url
	enabled     INTEGER NOT NULL,
	set_ts      INTEGER NOT NULL, -- ms; when the pushkey was last set
	pos         INTEGER NOT NULL, -- events up to here are pushed, or will not be
	badge       INTEGER NOT NULL, -- unread count that the gateway was told last; -1: none
	failures    INTEGER NOT NULL, -- in a row
	retry_ts    INTEGER NOT NULL, -- ms; nothing is sent before
	UNIQUE (app_id, pushkey, user_id)
);
CREATE INDEX pushers_user ON pushers (user_id);
