-- Sign-ins of devices whose person confirms them elsewhere (RFC 8628).
-- owner: identity/opstore
CREATE TABLE id_device_grants (
	device_hash BLOB PRIMARY KEY,     -- SHA-256 of the device code
	user_hash   BLOB NOT NULL UNIQUE, -- SHA-256 of the user code
	client_id   TEXT NOT NULL,
	scopes      TEXT NOT NULL,
	device_id   TEXT NOT NULL,        -- '': not for the Matrix API
	address     TEXT NOT NULL,        -- that the device asked from
	agent       TEXT NOT NULL,        -- what it said to be
	state       TEXT NOT NULL,        -- open, agreed, denied, used
	user_id     TEXT NOT NULL,        -- ULID of who agreed, or ''
	auth_time   INTEGER NOT NULL,     -- ms
	session_id  TEXT NOT NULL,        -- made from it; ended when the code comes again
	created     INTEGER NOT NULL,     -- ms
	expires     INTEGER NOT NULL      -- ms
) WITHOUT ROWID;
CREATE INDEX id_device_grants_expires ON id_device_grants (expires);
CREATE INDEX id_device_grants_user ON id_device_grants (user_id) WHERE state = 'agreed';
CREATE INDEX id_auth_requests_user ON id_auth_requests (user_id) WHERE state IN ('done', 'code');
