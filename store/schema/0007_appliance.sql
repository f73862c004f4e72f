-- What an administrator decided: everything that is not a bootstrap fact.
-- owner: appliance/settings
CREATE TABLE appliance_settings (
	key   TEXT PRIMARY KEY, -- "organisation", "server_name", "tls.mode", "claim.hash" ...
	value TEXT NOT NULL,
	since INTEGER NOT NULL  -- Unix milliseconds
) WITHOUT ROWID;
