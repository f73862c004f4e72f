-- Rooms that nobody may join, also those that this server does not know.
-- owner: homeserver/rooms
CREATE TABLE room_blocks (
	room_id TEXT PRIMARY KEY,
	user_id TEXT NOT NULL,   -- who blocked it
	ts      INTEGER NOT NULL -- ms
) WITHOUT ROWID;
