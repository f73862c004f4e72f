-- Applications that an administrator made for single sign-on, and what people
-- allowed them. Times are milliseconds since 1970. Hashes are SHA-256 of the secret.

-- owner: identity/register
CREATE TABLE id_apps (
	id         TEXT PRIMARY KEY, -- the client_id
	config     TEXT NOT NULL,    -- JSON, validated
	disabled   INTEGER NOT NULL,
	created    INTEGER NOT NULL,
	created_by TEXT NOT NULL,    -- user ID; '': the command line
	last_used  INTEGER NOT NULL  -- last sign-in that began; 0: never
) WITHOUT ROWID;

-- Two of an application's secrets are good at a time, so that they can be changed
-- without a break.
-- owner: identity/register
CREATE TABLE id_app_secrets (
	app_id    TEXT NOT NULL,
	id        TEXT NOT NULL,
	hash      BLOB NOT NULL,
	created   INTEGER NOT NULL,
	last_used INTEGER NOT NULL, -- 0: never
	PRIMARY KEY (app_id, id)
) WITHOUT ROWID;

-- What somebody allowed an application, so that they are not asked each time.
-- owner: identity/opstore
CREATE TABLE id_consents (
	user_id   TEXT NOT NULL, -- ULID
	client_id TEXT NOT NULL,
	scopes    TEXT NOT NULL,
	granted   INTEGER NOT NULL,
	PRIMARY KEY (user_id, client_id)
) WITHOUT ROWID;

-- Secrets of the provider itself, sealed under the key file.
-- owner: identity/opstore
CREATE TABLE id_sealed (
	name   TEXT PRIMARY KEY,
	sealed BLOB NOT NULL
) WITHOUT ROWID;

-- How the person signed in, and what was asked for: JSON; '': by password, nothing.
ALTER TABLE id_auth_requests ADD COLUMN signed TEXT NOT NULL DEFAULT '';
ALTER TABLE id_device_grants ADD COLUMN signed TEXT NOT NULL DEFAULT '';
ALTER TABLE id_sessions ADD COLUMN signed TEXT NOT NULL DEFAULT '';

-- A key is published before it signs, and for a while after; then without its private part.
ALTER TABLE id_keys ADD COLUMN active_from INTEGER NOT NULL DEFAULT 0; -- 0: since it was made
ALTER TABLE id_keys ADD COLUMN retired INTEGER NOT NULL DEFAULT 0;     -- 0: it signs, or will
ALTER TABLE id_keys ADD COLUMN public BLOB;                            -- PKCS #1

-- Names the browser session to applications; it stays when the person proves anew who they are.
ALTER TABLE id_browser_sessions ADD COLUMN sid TEXT NOT NULL DEFAULT '';
