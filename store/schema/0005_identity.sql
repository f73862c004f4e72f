-- Times are milliseconds since 1970. Hashes are SHA-256 of the secret.

-- owner: identity/account
CREATE TABLE id_users (
	id           TEXT PRIMARY KEY, -- ULID, the OpenID subject
	localpart    TEXT NOT NULL UNIQUE,
	display_name TEXT NOT NULL,    -- as given when the account was made
	admin        INTEGER NOT NULL,
	state        TEXT NOT NULL,    -- active, suspended, locked or deactivated
	source       TEXT NOT NULL,    -- what made the account
	created      INTEGER NOT NULL,
	last_seen    INTEGER NOT NULL  -- last sign-in; 0: never
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_passwords (
	user_id TEXT PRIMARY KEY,
	phc     TEXT NOT NULL, -- argon2id
	changed INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_auth_failures (
	key   BLOB PRIMARY KEY, -- hash of what failed: name and address
	count INTEGER NOT NULL,
	until INTEGER NOT NULL, -- no attempt is looked at before
	at    INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_invites (
	id         TEXT PRIMARY KEY,
	hash       BLOB NOT NULL UNIQUE,
	localpart  TEXT NOT NULL, -- '': the person chooses
	admin      INTEGER NOT NULL,
	uses       INTEGER NOT NULL,
	uses_left  INTEGER NOT NULL,
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL,
	created_by TEXT NOT NULL, -- user ID
	revoked    INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_browser_sessions (
	hash      BLOB PRIMARY KEY, -- of the cookie
	user_id   TEXT NOT NULL,
	auth_time INTEGER NOT NULL, -- when the person last proved who they are
	created   INTEGER NOT NULL,
	expires   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_browser_sessions_user ON id_browser_sessions (user_id);

-- owner: identity/account
CREATE TABLE id_resets (
	user_id TEXT PRIMARY KEY,
	until   INTEGER NOT NULL -- cross-signing keys may be replaced until then
) WITHOUT ROWID;

-- owner: identity/register
CREATE TABLE id_clients (
	id        TEXT PRIMARY KEY,
	digest    BLOB NOT NULL UNIQUE, -- of metadata: the same registration gives the same client
	metadata  TEXT NOT NULL,        -- JSON, validated
	created   INTEGER NOT NULL,
	last_used INTEGER NOT NULL      -- last sign-in that began; 0: never
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_auth_requests (
	id           TEXT PRIMARY KEY,
	client_id    TEXT NOT NULL,
	browser_hash BLOB NOT NULL, -- of the cookie of the browser that began it
	params       TEXT NOT NULL, -- JSON: the checked parameters
	user_id      TEXT NOT NULL, -- '': nobody signed in yet
	auth_time    INTEGER NOT NULL,
	state        TEXT NOT NULL, -- open, done, code, used
	code_hash    BLOB UNIQUE,
	code_expires INTEGER NOT NULL,
	session_id   TEXT NOT NULL, -- made from the code; ended when the code comes again
	expires      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_auth_requests_expires ON id_auth_requests (expires);

-- owner: identity/opstore
CREATE TABLE id_sessions (
	id          TEXT PRIMARY KEY,
	user_id     TEXT NOT NULL,
	client_id   TEXT NOT NULL, -- '': a legacy login
	scopes      TEXT NOT NULL,
	device_id   TEXT NOT NULL, -- '': no Matrix device
	auth_time   INTEGER NOT NULL,
	created     INTEGER NOT NULL,
	last_active INTEGER NOT NULL,
	ended       INTEGER NOT NULL, -- 0: alive
	reason      TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_sessions_user ON id_sessions (user_id, device_id) WHERE ended = 0;
CREATE INDEX id_sessions_client ON id_sessions (client_id) WHERE ended = 0;
CREATE INDEX id_sessions_ended ON id_sessions (ended) WHERE ended <> 0;

-- owner: identity/opstore
CREATE TABLE id_access_tokens (
	hash       BLOB PRIMARY KEY,
	session_id TEXT NOT NULL,
	refresh    BLOB,             -- the refresh token it was given out with
	scopes     TEXT NOT NULL,
	expires    INTEGER NOT NULL, -- 0: never
	first_used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_access_tokens_session ON id_access_tokens (session_id);
CREATE INDEX id_access_tokens_expires ON id_access_tokens (expires) WHERE expires <> 0;

-- owner: identity/opstore
CREATE TABLE id_refresh_tokens (
	hash       BLOB PRIMARY KEY,
	session_id TEXT NOT NULL,
	parent     BLOB,             -- the token this one replaced
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL,
	consumed   INTEGER NOT NULL  -- when its child was first used; 0: still good
) WITHOUT ROWID;
CREATE INDEX id_refresh_tokens_session ON id_refresh_tokens (session_id);
CREATE INDEX id_refresh_tokens_consumed ON id_refresh_tokens (consumed) WHERE consumed <> 0;

-- owner: identity/opstore
CREATE TABLE id_login_tokens (
	hash    BLOB PRIMARY KEY,
	user_id TEXT NOT NULL,
	expires INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_keys (
	kid     TEXT PRIMARY KEY,
	alg     TEXT NOT NULL,
	sealed  BLOB NOT NULL, -- private key, sealed under the key file
	created INTEGER NOT NULL
) WITHOUT ROWID;
