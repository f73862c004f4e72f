-- Quarantine, protection, retention and quotas of media.
ALTER TABLE media ADD COLUMN quarantined_by TEXT;                       -- user ID of the administrator; NULL: it is served
ALTER TABLE media ADD COLUMN protected INTEGER NOT NULL DEFAULT 0;      -- 1: stays when others are quarantined
ALTER TABLE media ADD COLUMN accessed_ts INTEGER NOT NULL DEFAULT 0;    -- ms, to the hour; created_ts: never
ALTER TABLE media ADD COLUMN preview INTEGER NOT NULL DEFAULT 0;        -- 1: the picture of a link's preview, of no user
UPDATE media SET accessed_ts = created_ts;
CREATE INDEX media_accessed ON media (accessed_ts) WHERE hash IS NOT NULL;
CREATE INDEX media_thumbnails_blob ON media_thumbnails (thumbnail);

-- Contents that are served to nobody, however often they are uploaded.
-- owner: homeserver/media
CREATE TABLE media_quarantine (
	hash    TEXT PRIMARY KEY, -- blob
	by_user TEXT NOT NULL,
	since   INTEGER NOT NULL  -- ms
) WITHOUT ROWID;

-- How much each user has stored; '' is the server itself.
-- owner: homeserver/media
CREATE TABLE media_usage (
	user_id TEXT PRIMARY KEY,
	files   INTEGER NOT NULL,
	bytes   INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO media_usage (user_id, files, bytes)
	SELECT user_id, count(*), sum(size) FROM media WHERE hash IS NOT NULL GROUP BY user_id;

-- Previews of links, by when they were fetched.
-- owner: homeserver/media
CREATE TABLE media_previews (
	url        TEXT NOT NULL,
	fetched_ts INTEGER NOT NULL, -- ms
	expires_ts INTEGER NOT NULL, -- ms; from then on it is fetched anew
	answer     TEXT NOT NULL,    -- JSON; empty: it could not be fetched
	media_id   TEXT,             -- of its picture
	PRIMARY KEY (url, fetched_ts)
) WITHOUT ROWID;
CREATE INDEX media_previews_expired ON media_previews (expires_ts);
CREATE INDEX media_previews_media ON media_previews (media_id) WHERE media_id IS NOT NULL;
