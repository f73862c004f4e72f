-- owner: homeserver/appservice
CREATE TABLE appservice_cursors (
	id      TEXT PRIMARY KEY,           -- of the registration
	pos     INTEGER NOT NULL,           -- events up to here were delivered or did not interest it
	sending INTEGER NOT NULL DEFAULT 0, -- last position of the transaction under way, 0: none
	txn     INTEGER NOT NULL DEFAULT 0  -- number of the transaction under way or last delivered
) WITHOUT ROWID;
