-- owner: store
CREATE TABLE store_sequence (
	name  TEXT PRIMARY KEY,
	value INTEGER NOT NULL -- positions up to here may have been handed out
) WITHOUT ROWID;
