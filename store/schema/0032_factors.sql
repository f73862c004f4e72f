-- What people prove who they are with, beside a password. Times are milliseconds since 1970.

-- owner: identity/factor
CREATE TABLE id_totp (
	user_id   TEXT PRIMARY KEY, -- ULID of the account
	sealed    BLOB NOT NULL,    -- the shared secret, under the key file
	last_step INTEGER NOT NULL, -- the newest time step that was used; each is good once
	created   INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/factor
CREATE TABLE id_recovery_codes (
	user_id TEXT NOT NULL,
	hash    BLOB NOT NULL,    -- HMAC-SHA256 under the key file
	created INTEGER NOT NULL,
	used    INTEGER NOT NULL, -- 0: still good
	PRIMARY KEY (user_id, hash)
) WITHOUT ROWID;

-- How the person signed in: methods of RFC 8176, with spaces between.
ALTER TABLE id_browser_sessions ADD COLUMN amr TEXT NOT NULL DEFAULT 'pwd';
