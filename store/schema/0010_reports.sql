-- What users reported as inappropriate, until an administrator deletes the report.
-- owner: homeserver/reports
CREATE TABLE reports (
	id       INTEGER PRIMARY KEY,        -- position when it was made: never used twice
	kind     TEXT NOT NULL,              -- event, room or user
	room_id  TEXT NOT NULL DEFAULT '',   -- of the event, or the room itself
	event_id TEXT NOT NULL DEFAULT '',
	user_id  TEXT NOT NULL DEFAULT '',   -- the event's sender, or the user itself
	reporter TEXT NOT NULL,
	reason   TEXT NOT NULL,
	score    INTEGER,                    -- of events, from older clients: -100 is most offensive
	ts       INTEGER NOT NULL            -- ms
);
CREATE INDEX reports_room ON reports (room_id, id);
CREATE INDEX reports_user ON reports (user_id, id);
CREATE INDEX reports_reporter ON reports (reporter, id);
