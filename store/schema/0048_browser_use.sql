-- When a browser was last used, so that its session can end when nobody does.
ALTER TABLE id_browser_sessions ADD COLUMN used INTEGER NOT NULL DEFAULT 0; -- ms since 1970, to the minute
UPDATE id_browser_sessions SET used = created;
