-- Connections of sliding sync, so that a restart does not make clients begin anew.
-- owner: homeserver/sliding
CREATE TABLE sliding_connections (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	conn_id   TEXT NOT NULL,
	serial    INTEGER NOT NULL, -- tells connections of one name apart
	answer    INTEGER NOT NULL, -- number of the last answer
	pos       INTEGER NOT NULL, -- position that it was as of
	used_ts   INTEGER NOT NULL, -- ms
	state     TEXT NOT NULL,    -- JSON: what was sent of each room
	PRIMARY KEY (user_id, device_id, conn_id)
) WITHOUT ROWID;
CREATE INDEX sliding_connections_used ON sliding_connections (used_ts);
