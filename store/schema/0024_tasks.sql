-- Long work that runs beside the requests, and how it went.
-- owner: homeserver/tasks
CREATE TABLE tasks (
	seq      INTEGER PRIMARY KEY,      -- position when it was scheduled: their order
	id       TEXT NOT NULL UNIQUE,
	action   TEXT NOT NULL,
	resource TEXT NOT NULL,            -- what it works on, such as a room ID; '': nothing in particular
	status   TEXT NOT NULL,            -- scheduled, active, complete, cancelled or failed
	ts       INTEGER NOT NULL,         -- ms; when it came to its status
	params   TEXT NOT NULL,            -- JSON
	cursor   TEXT,                     -- JSON: how far it has come
	result   TEXT,                     -- JSON
	error    TEXT NOT NULL DEFAULT ''
);
CREATE INDEX tasks_open ON tasks (seq) WHERE status IN ('scheduled', 'active');
CREATE INDEX tasks_resource ON tasks (resource, seq);
CREATE INDEX tasks_age ON tasks (ts);

-- How users left rooms that were deleted since: for devices that come back later.
-- owner: homeserver/rooms
CREATE TABLE room_departures (
	user_id  TEXT NOT NULL,
	room_id  TEXT NOT NULL,
	pos      INTEGER NOT NULL, -- of the event
	version  TEXT NOT NULL,    -- of the room
	event_id TEXT NOT NULL,
	ts       INTEGER NOT NULL, -- ms; when the room was deleted
	json     BLOB NOT NULL,    -- the member event
	PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;
CREATE INDEX room_departures_pos ON room_departures (pos);
CREATE INDEX room_departures_age ON room_departures (ts);

-- What a room that is deleted leaves in them is found by the room.
CREATE INDEX user_account_data_room ON user_account_data (room_id) WHERE room_id <> '';
CREATE INDEX push_counts_room ON push_counts (room_id);
CREATE INDEX delayed_events_room ON delayed_events (room_id);
CREATE INDEX appservice_rooms_room ON appservice_rooms (room_id);
