-- The e-mail addresses that people have proved to be theirs, in canonical form.
-- owner: identity/account
CREATE TABLE id_emails (
	address   TEXT PRIMARY KEY,
	user_id   TEXT NOT NULL,    -- ULID of the account
	validated INTEGER NOT NULL, -- ms
	added     INTEGER NOT NULL  -- ms
) WITHOUT ROWID;
CREATE INDEX id_emails_user ON id_emails (user_id);

-- Proofs of an e-mail address, begun and done.
-- owner: identity/account
CREATE TABLE id_email_proofs (
	sid         TEXT PRIMARY KEY,
	purpose     TEXT NOT NULL,    -- register, add or password
	address     TEXT NOT NULL,
	secret_hash BLOB NOT NULL,    -- SHA-256 of the client's secret
	user_id     TEXT NOT NULL,    -- whose address it was when a password was asked for, or ''
	next_link   TEXT NOT NULL,    -- where the browser goes afterwards, or ''
	attempt     INTEGER NOT NULL, -- the highest send_attempt of the client
	sent        INTEGER NOT NULL, -- mails
	created     INTEGER NOT NULL, -- ms
	expires     INTEGER NOT NULL, -- ms
	validated   INTEGER NOT NULL  -- ms; 0: not yet
) WITHOUT ROWID;
CREATE UNIQUE INDEX id_email_proofs_client ON id_email_proofs (purpose, address, secret_hash);
CREATE INDEX id_email_proofs_address ON id_email_proofs (address);

-- What was mailed: every mail of a proof has its own token.
-- owner: identity/account
CREATE TABLE id_email_tokens (
	hash BLOB PRIMARY KEY, -- SHA-256 of the token
	sid  TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_email_tokens_sid ON id_email_tokens (sid);
