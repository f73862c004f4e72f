-- What is known of pushers that send e-mail, besides their row of pushers.
-- owner: homeserver/push/pusher
CREATE TABLE pusher_mails (
	pusher_id INTEGER PRIMARY KEY,
	secret    TEXT NOT NULL,    -- of the link in the messages, which can do nothing but end them
	sent_ts   INTEGER NOT NULL, -- ms; of the last message; 0: none
	in_row    INTEGER NOT NULL  -- messages since the user read anything
);
