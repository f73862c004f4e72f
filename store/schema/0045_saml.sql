-- Providers of SAML 2.0 beside those of OpenID Connect. Times are milliseconds since 1970.

-- What another provider calls the session there that a browser session here came from, so
-- that the end of either can end both.
-- owner: identity/upstream
CREATE TABLE id_upstream_sessions (
	sid      TEXT PRIMARY KEY, -- names the browser session
	user_id  TEXT NOT NULL,    -- ULID
	upstream TEXT NOT NULL,    -- short name of the provider
	issuer   TEXT NOT NULL,
	subject  TEXT NOT NULL,    -- the provider's word for the person: SAML's NameID
	session  TEXT NOT NULL,    -- and for the session, if it has one: SAML's SessionIndex
	data     TEXT NOT NULL,    -- JSON: what else it is told when the session ends here
	created  INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX id_upstream_sessions_subject ON id_upstream_sessions (issuer, subject);

-- Messages that were taken and are not taken again, until they are too old anyway.
-- owner: identity/upstream
CREATE TABLE id_upstream_used (
	hash  BLOB PRIMARY KEY, -- SHA-256 of issuer and ID
	until INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX id_upstream_used_until ON id_upstream_used (until);
