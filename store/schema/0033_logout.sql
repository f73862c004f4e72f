-- Applications learn when the sign-in that they rely on ends (OpenID Connect
-- Back-Channel Logout). Times are milliseconds since 1970.

-- Where somebody signed in with a browser session. It goes when the application was told.
-- owner: identity/opstore
CREATE TABLE id_logins (
	user_id   TEXT NOT NULL,    -- ULID
	sid       TEXT NOT NULL,    -- of the browser session; '': a device without one
	client_id TEXT NOT NULL,
	issuer    TEXT NOT NULL,    -- by which the application knows the appliance
	created   INTEGER NOT NULL,
	PRIMARY KEY (user_id, sid, client_id)
) WITHOUT ROWID;

CREATE INDEX id_logins_client ON id_logins (client_id);

-- What applications are still to be told.
-- owner: identity/opstore
CREATE TABLE id_logouts (
	id        TEXT PRIMARY KEY, -- ULID; the jti
	client_id TEXT NOT NULL,
	user_id   TEXT NOT NULL,
	sid       TEXT NOT NULL,    -- '': all of the person's sessions there
	issuer    TEXT NOT NULL,
	created   INTEGER NOT NULL,
	tries     INTEGER NOT NULL,
	next      INTEGER NOT NULL  -- not tried before
) WITHOUT ROWID;

CREATE INDEX id_logouts_next ON id_logouts (next);
CREATE INDEX id_logouts_client ON id_logouts (client_id);

-- Signed assertions of applications that were used, until they expire.
-- owner: identity/opstore
CREATE TABLE id_assertions (
	hash    BLOB PRIMARY KEY, -- SHA-256 of client and jti
	expires INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX id_assertions_expires ON id_assertions (expires);
