-- Threads that users subscribed to, and those from which they took themselves off:
-- what caused a subscription before that must not cause it again.
-- owner: homeserver/threads
CREATE TABLE thread_subscriptions (
	user_id  TEXT NOT NULL,
	room_id  TEXT NOT NULL,
	root     TEXT NOT NULL,    -- event ID
	state    INTEGER NOT NULL, -- 0: not subscribed, 1: by the user's choice, 2: automatically
	ended_at INTEGER NOT NULL, -- position up to which events cause no automatic subscription; 0: none
	pos      INTEGER NOT NULL, -- of the last change that clients are told of; 0: none
	PRIMARY KEY (user_id, room_id, root)
) WITHOUT ROWID;
CREATE INDEX thread_subscriptions_pos ON thread_subscriptions (user_id, pos);
CREATE INDEX thread_subscriptions_room ON thread_subscriptions (room_id);

-- Users of whom some client knows subscriptions: only their unread messages are
-- counted by them.
-- owner: homeserver/threads
CREATE TABLE thread_subscribers (
	user_id TEXT PRIMARY KEY,
	pos     INTEGER NOT NULL -- since when
) WITHOUT ROWID;
