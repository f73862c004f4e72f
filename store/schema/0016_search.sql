-- What can be searched for, as store.Text makes it. Redaction removes it.
-- owner: homeserver/search
CREATE TABLE search_texts (
	pos    INTEGER PRIMARY KEY, -- of the event that says it
	event  INTEGER NOT NULL,    -- position of the event that is found by it: itself, or the one that it edits
	room   INTEGER NOT NULL,
	key    TEXT NOT NULL,       -- of the content: body, name or topic
	sender TEXT NOT NULL,
	text   TEXT NOT NULL
);
CREATE INDEX search_texts_edit ON search_texts (event) WHERE event <> pos;

-- The words of search_texts.
-- owner: homeserver/search
CREATE VIRTUAL TABLE search_index USING fts5 (text, content = 'search_texts', content_rowid = 'pos',
	tokenize = "unicode61 remove_diacritics 2 categories 'L* M* N* Co So'");
-- What is removed leaves nothing behind.
INSERT INTO search_index (search_index, rank) VALUES ('secure-delete', 1);
-- Messages are written more often than searched for: merge less.
INSERT INTO search_index (search_index, rank) VALUES ('automerge', 8);

-- How far events are in the index: those of positions in (low, high].
-- owner: homeserver/search
CREATE TABLE search_progress (
	id   INTEGER PRIMARY KEY CHECK (id = 1),
	low  INTEGER NOT NULL,
	high INTEGER NOT NULL
);
INSERT INTO search_progress (id, low, high) SELECT 1, coalesce(max(pos), 0), coalesce(max(pos), 0) FROM events;
