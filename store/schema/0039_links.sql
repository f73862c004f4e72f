-- Links by which a person sets a new password for an account that exists. Times are
-- milliseconds since 1970.
-- owner: identity/account
CREATE TABLE id_links (
	id         TEXT PRIMARY KEY, -- ULID
	hash       BLOB NOT NULL UNIQUE, -- SHA-256 of the token
	user_id    TEXT NOT NULL,    -- ULID of the account
	kind       TEXT NOT NULL,    -- recovery or enrol
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL,
	used       INTEGER NOT NULL, -- 0: not yet
	created_by TEXT NOT NULL,    -- user ID, or '' for the command line
	revoked    INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX id_links_user ON id_links (user_id);
