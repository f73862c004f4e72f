-- Uploaded files by their media ID. The content is a blob, shared by equal files.
-- owner: homeserver/media
CREATE TABLE media (
	media_id     TEXT PRIMARY KEY,
	user_id      TEXT NOT NULL,
	content_type TEXT NOT NULL DEFAULT '', -- as the uploader said, checked for its form
	file_name    TEXT NOT NULL DEFAULT '',
	created_ts   INTEGER NOT NULL,         -- ms
	expires_ts   INTEGER,                  -- ms; until then a created ID waits for its content
	hash         TEXT,                     -- blob; NULL: not uploaded yet
	size         INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX media_user ON media (user_id, created_ts);
CREATE INDEX media_hash ON media (hash) WHERE hash IS NOT NULL;
CREATE INDEX media_waiting ON media (expires_ts) WHERE hash IS NULL;

-- Thumbnails made so far, by their original's content.
-- owner: homeserver/media
CREATE TABLE media_thumbnails (
	hash         TEXT NOT NULL, -- of the original
	width        INTEGER NOT NULL,
	height       INTEGER NOT NULL,
	method       TEXT NOT NULL, -- scale or crop
	content_type TEXT NOT NULL,
	thumbnail    TEXT NOT NULL, -- blob
	size         INTEGER NOT NULL,
	PRIMARY KEY (hash, width, height, method)
) WITHOUT ROWID;
