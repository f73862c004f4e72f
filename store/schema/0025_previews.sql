-- Previews of links, by the language that they were asked for in and by when they
-- were fetched. The table before was not in use.
DROP TABLE media_previews;
-- owner: homeserver/media
CREATE TABLE media_previews (
	url        TEXT NOT NULL,
	lang       TEXT NOT NULL,            -- "de", "pt-BR"; "": any
	fetched_ts INTEGER NOT NULL,         -- ms
	expires_ts INTEGER NOT NULL,         -- ms; from then on it is fetched anew
	answer     TEXT NOT NULL,            -- JSON
	failure    TEXT NOT NULL DEFAULT '', -- why it could not be fetched; "": it could
	media_id   TEXT,                     -- of its picture
	PRIMARY KEY (url, lang, fetched_ts)
) WITHOUT ROWID;
CREATE INDEX media_previews_expired ON media_previews (expires_ts);
CREATE INDEX media_previews_media ON media_previews (media_id) WHERE media_id IS NOT NULL;
