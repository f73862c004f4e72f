-- People who came by lists: exports of a personnel office or a directory.

-- owner: identity/bulk
CREATE TABLE id_list_people (
	list      TEXT NOT NULL,    -- name of the list
	subject   TEXT NOT NULL,    -- what identifies the person in it
	user_id   TEXT NOT NULL UNIQUE, -- ULID of the account
	name      TEXT NOT NULL,    -- user name in the list
	full_name TEXT NOT NULL,    -- as last taken over
	locked    INTEGER NOT NULL, -- the account is locked because the list says so
	PRIMARY KEY (list, subject)
) WITHOUT ROWID;
