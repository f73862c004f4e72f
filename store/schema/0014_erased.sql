-- Users whose account was closed with the wish to be forgotten: who joins a room
-- after pos gets what they wrote in redacted form.
-- owner: homeserver/timeline
CREATE TABLE erased_users (
	user_id TEXT PRIMARY KEY,
	pos     INTEGER NOT NULL
) WITHOUT ROWID;
