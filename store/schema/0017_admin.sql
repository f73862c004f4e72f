-- Words that register accounts where registration is closed (m.login.registration_token).
-- Administrators read them out and hand them on, so they are kept as they are: unlike
-- invites, which only who made them ever sees.
-- owner: identity/account
CREATE TABLE id_registration_tokens (
	token     TEXT PRIMARY KEY,
	uses      INTEGER,          -- NULL: no bound
	completed INTEGER NOT NULL DEFAULT 0,
	expires   INTEGER,          -- ms; NULL: never
	created   INTEGER NOT NULL  -- ms
) WITHOUT ROWID;

-- What administrators noted about a user.
-- owner: homeserver/admin
CREATE TABLE admin_users (
	user_id    TEXT PRIMARY KEY,
	user_type  TEXT NOT NULL DEFAULT '', -- bot, support or ''
	per_second INTEGER,                  -- messages; NULL: the usual limits, 0: none
	burst      INTEGER
) WITHOUT ROWID;
