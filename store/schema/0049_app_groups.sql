-- Who may use an application, by the group itself. It was by the group's name, and so a new
-- group of a removed one's name came in.
-- owner: identity/register
CREATE TABLE id_app_groups (
	app_id   TEXT NOT NULL,
	group_id TEXT NOT NULL, -- ULID
	gone     TEXT NOT NULL, -- the name of a group that was removed, whose row keeps the application from being everybody's; '': it is there
	PRIMARY KEY (app_id, group_id)
) WITHOUT ROWID;
CREATE INDEX id_app_groups_group ON id_app_groups (group_id);

-- A name that is no group's now let nobody in, and goes on doing so.
INSERT INTO id_app_groups (app_id, group_id, gone)
SELECT a.id, coalesce(g.id, 'none: ' || n.value), CASE WHEN g.id IS NULL THEN n.value ELSE '' END
FROM id_apps a, json_each(a.config, '$.groups') n LEFT JOIN id_groups g ON g.name = n.value
WHERE true ON CONFLICT DO NOTHING;

UPDATE id_apps SET config = json_remove(config, '$.groups');
