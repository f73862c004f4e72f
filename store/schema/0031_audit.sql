-- What happened to people, credentials, sessions and settings. Each entry names the
-- hash of the one before, and has a MAC by a key that is not in the database.

-- owner: store/audit
CREATE TABLE audit_log (
	seq    INTEGER PRIMARY KEY, -- 1, 2, 3, without a gap
	at     INTEGER NOT NULL,    -- ms since 1970
	actor  TEXT NOT NULL,       -- user ID, or a word such as command-line
	event  TEXT NOT NULL,
	target TEXT NOT NULL,       -- who or what it happened to; '': nothing single
	ip     TEXT NOT NULL,       -- '': it did not come over the network
	data   TEXT NOT NULL,       -- canonical JSON, an object
	prev   BLOB NOT NULL,       -- hash of the entry before; 32 zero bytes in the first
	hash   BLOB NOT NULL,       -- SHA-256 of the canonical JSON of all above
	mac    BLOB NOT NULL        -- of the hash
);
CREATE INDEX audit_log_at ON audit_log (at);
CREATE INDEX audit_log_actor ON audit_log (actor);
CREATE INDEX audit_log_target ON audit_log (target);

-- Entries are added at the end, and never changed or removed. The first trigger is also
-- against INSERT OR REPLACE, which would remove a row without asking the third.
CREATE TRIGGER audit_log_append BEFORE INSERT ON audit_log
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit_log)
BEGIN SELECT RAISE(ABORT, 'the audit log grows at its end alone'); END;
CREATE TRIGGER audit_log_update BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is not changed'); END;
CREATE TRIGGER audit_log_delete BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'nothing is removed from the audit log'); END;
