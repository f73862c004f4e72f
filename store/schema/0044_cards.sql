-- Invites and links that are printed. Times are milliseconds since 1970.
-- owner: identity/account
CREATE TABLE id_batches (
	id         TEXT PRIMARY KEY, -- ULID
	name       TEXT NOT NULL,
	kind       TEXT NOT NULL,    -- invite, enrol or recovery
	pins       INTEGER NOT NULL, -- its cards need a PIN
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL,
	created_by TEXT NOT NULL     -- user ID, or '' for the command line
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_cards (
	id      TEXT PRIMARY KEY, -- of the invite or the link that it is
	batch   TEXT NOT NULL,
	number  INTEGER NOT NULL, -- in its batch, from 1
	user_id TEXT NOT NULL,    -- ULID of the account that it is for, or that it made; '': none yet
	pin     BLOB,             -- HMAC of its code and PIN; NULL: it needs none
	wrong   INTEGER NOT NULL  -- wrong PINs that were typed
) WITHOUT ROWID;
CREATE UNIQUE INDEX id_cards_batch ON id_cards (batch, number);
