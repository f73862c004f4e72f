-- What others last saw of a user's presence, and when the user was last active as of
-- then: it is taken up after a restart.
-- owner: homeserver/ephemeral
CREATE TABLE user_presence (
	user_id    TEXT PRIMARY KEY,
	state      TEXT NOT NULL, -- online, unavailable or offline
	status_msg TEXT NOT NULL,
	active     INTEGER NOT NULL, -- ms; 0: never
	pos        INTEGER NOT NULL  -- of the last change that others see
) WITHOUT ROWID;
