-- Calls go on after a restart of the server. Times are milliseconds since 1970.

-- owner: homeserver/calls
-- Who was given a token for a place in a call. The tokens outlive the server's process,
-- and so must the knowledge of whose they are.
CREATE TABLE call_seats (
	room      TEXT NOT NULL,    -- the relay's name of the call
	identity  TEXT NOT NULL,    -- the relay's name of the participant
	room_id   TEXT NOT NULL,
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,    -- '': not known
	expires   INTEGER NOT NULL, -- of a place that was taken away: when its last token does; 0: it was not
	PRIMARY KEY (room, identity)
) WITHOUT ROWID;
