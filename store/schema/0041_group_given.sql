-- Memberships of local groups that rest on the word of somebody elsewhere: a provider that
-- people sign in with. One without a row here was given by hand.
-- owner: identity/account
CREATE TABLE id_group_given (
	group_id TEXT NOT NULL,
	user_id  TEXT NOT NULL, -- ULID of the account
	origin   TEXT NOT NULL, -- "upstream" and the provider's short name
	PRIMARY KEY (group_id, user_id, origin)
) WITHOUT ROWID;

CREATE INDEX id_group_given_user ON id_group_given (user_id, origin);
CREATE INDEX id_group_given_origin ON id_group_given (origin, user_id);
