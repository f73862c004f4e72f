-- What the command line registered; others are read from files.
-- owner: homeserver/appservice
CREATE TABLE appservice_registrations (
	id   TEXT PRIMARY KEY,
	yaml TEXT NOT NULL
) WITHOUT ROWID;

DROP TABLE appservice_cursors;
-- owner: homeserver/appservice
CREATE TABLE appservice_cursors (
	id  TEXT PRIMARY KEY,          -- of the registration
	pos INTEGER NOT NULL,          -- receipts, device lists and the like up to here were looked at
	txn INTEGER NOT NULL DEFAULT 0 -- number of the last transaction
) WITHOUT ROWID;

-- What interests a service and is in no transaction yet.
-- owner: homeserver/appservice
CREATE TABLE appservice_queue (
	id      TEXT NOT NULL,
	pos     INTEGER NOT NULL, -- of the event or to-device message
	message TEXT,             -- JSON of the to-device message; NULL: the event is in events
	PRIMARY KEY (id, pos)
) WITHOUT ROWID;

-- The transaction under way of each service: sent again as it is until it is taken.
-- owner: homeserver/appservice
CREATE TABLE appservice_transactions (
	id    TEXT PRIMARY KEY,
	txn   TEXT NOT NULL,    -- ID of the transaction
	up_to INTEGER NOT NULL, -- position
	body  BLOB NOT NULL     -- JSON
) WITHOUT ROWID;

-- Rooms in the directories of services' networks.
-- owner: homeserver/appservice
CREATE TABLE appservice_rooms (
	id         TEXT NOT NULL, -- of the registration
	network_id TEXT NOT NULL,
	room_id    TEXT NOT NULL,
	PRIMARY KEY (id, network_id, room_id)
) WITHOUT ROWID;

-- Services get the receipts of all rooms, by position.
CREATE INDEX room_receipts_all ON room_receipts (pos);
