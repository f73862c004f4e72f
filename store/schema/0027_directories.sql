-- Times are milliseconds since 1970.

-- owner: identity/roster
CREATE TABLE id_directories (
	id      TEXT PRIMARY KEY, -- short name, chosen by an administrator
	config  TEXT NOT NULL,    -- JSON, sealed by the identity provider's key
	created INTEGER NOT NULL,
	synced  INTEGER NOT NULL, -- end of the last reading that was taken; 0: none
	report  TEXT NOT NULL     -- JSON of the last reading
) WITHOUT ROWID;

-- owner: identity/roster
CREATE TABLE id_directory_people (
	directory TEXT NOT NULL,
	subject   TEXT NOT NULL,   -- what the directory calls the person for good
	user_id   TEXT NOT NULL UNIQUE,
	name      TEXT NOT NULL,   -- user name in the directory
	full_name TEXT NOT NULL,   -- as last taken over
	locked    INTEGER NOT NULL, -- the account is locked because the directory says so
	PRIMARY KEY (directory, subject)
) WITHOUT ROWID;
