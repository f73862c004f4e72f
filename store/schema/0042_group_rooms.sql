-- Which groups' people are put into which rooms and spaces. Times are milliseconds since 1970.

-- owner: homeserver/grouprooms
CREATE TABLE group_rooms (
	group_id TEXT NOT NULL,    -- ULID of the group
	room_id  TEXT NOT NULL,
	level    INTEGER NOT NULL, -- power level that they get; 0: the room's default
	take_out INTEGER NOT NULL, -- who leaves the group stays (0), is out if a rule put them in (1), or is out in any case (2)
	rooms    INTEGER NOT NULL, -- the rooms of the space, too
	created  INTEGER NOT NULL,
	PRIMARY KEY (group_id, room_id)
) WITHOUT ROWID;

-- What became of each of them.
-- owner: homeserver/grouprooms
CREATE TABLE group_room_people (
	room_id  TEXT NOT NULL,
	user_id  TEXT NOT NULL,
	state    INTEGER NOT NULL, -- 0: could not be put in yet, 1: is in, 2: was in and left, or was put out by others
	placed   INTEGER NOT NULL, -- a rule put them in; else they were in before
	take_out INTEGER NOT NULL, -- as in group_rooms
	level    INTEGER NOT NULL, -- power level that was settled; 0: none, -1: it could not be yet
	given    INTEGER NOT NULL, -- power level that they were given; 0: none
	back     INTEGER,          -- level of their own before; NULL: none
	trouble  TEXT NOT NULL,    -- why it could not be done; '': it was
	PRIMARY KEY (room_id, user_id)
) WITHOUT ROWID;
CREATE INDEX group_room_people_user ON group_room_people (user_id);
