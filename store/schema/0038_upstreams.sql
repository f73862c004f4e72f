-- Other OpenID providers whose people sign in here. Times are milliseconds since 1970.

-- owner: identity/upstream
CREATE TABLE id_upstreams (
	id      TEXT PRIMARY KEY, -- short name, chosen by an administrator
	config  TEXT NOT NULL,    -- JSON, sealed by the identity provider's key
	created INTEGER NOT NULL
) WITHOUT ROWID;

-- Who somebody is there. The issuer and its subject are the key, so that another
-- provider under the same short name is another.
-- owner: identity/upstream
CREATE TABLE id_upstream_links (
	issuer  TEXT NOT NULL,
	subject TEXT NOT NULL,
	user_id TEXT NOT NULL, -- ULID
	created INTEGER NOT NULL,
	PRIMARY KEY (issuer, subject)
) WITHOUT ROWID;

CREATE INDEX id_upstream_links_user ON id_upstream_links (user_id);
