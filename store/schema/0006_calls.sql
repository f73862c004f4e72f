-- owner: homeserver/delayed
CREATE TABLE delayed_events (
	delay_id     TEXT PRIMARY KEY, -- also what allows to restart, send or cancel
	user_id      TEXT NOT NULL,
	device_id    TEXT NOT NULL,
	request      TEXT,             -- the request's transaction, so that a retry finds its event; NULL: it has none
	room_id      TEXT NOT NULL,
	type         TEXT NOT NULL,
	state_key    TEXT,             -- NULL: a message
	content      TEXT NOT NULL,
	origin_ts    INTEGER NOT NULL, -- of an application service that sets it, ms; 0: the time of sending
	delay_ms     INTEGER NOT NULL,
	since_ts     INTEGER NOT NULL, -- when it was scheduled or last restarted, ms
	due_ts       INTEGER,          -- ms; NULL: it was sent or dropped
	finalised_ts INTEGER,          -- ms; NULL: it waits
	event_id     TEXT,             -- of the event that was sent
	error        TEXT              -- JSON: why it could not be sent
);
CREATE INDEX delayed_events_due ON delayed_events (due_ts) WHERE due_ts IS NOT NULL;
CREATE INDEX delayed_events_user ON delayed_events (user_id, due_ts);
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_ts) WHERE finalised_ts IS NOT NULL;
CREATE UNIQUE INDEX delayed_events_request ON delayed_events (user_id, device_id, request) WHERE request IS NOT NULL;

-- owner: homeserver/calls
CREATE TABLE openid_tokens (
	hash    BLOB PRIMARY KEY,  -- SHA-256
	user_id TEXT NOT NULL,
	expires INTEGER NOT NULL   -- ms
) WITHOUT ROWID;
CREATE INDEX openid_tokens_user ON openid_tokens (user_id, expires);
CREATE INDEX openid_tokens_expires ON openid_tokens (expires);

-- owner: homeserver/calls
-- Delayed leave events that the server restarts while their participant is in a call.
CREATE TABLE call_delegations (
	room      TEXT NOT NULL,     -- the relay's name of the call
	identity  TEXT NOT NULL,     -- the relay's name of the participant
	delay_id  TEXT NOT NULL,
	delay_ms  INTEGER NOT NULL,
	PRIMARY KEY (room, identity)
) WITHOUT ROWID;
