-- What was sealed that an earlier version kept in clear: registration tokens, the
-- server's signing key, registrations of application services, IDs of delayed events,
-- what pushers and topics are reached by. The program does it, which has the key.
-- owner: store/sealed
CREATE TABLE store_sealed (
	name TEXT PRIMARY KEY
) WITHOUT ROWID;
