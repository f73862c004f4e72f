-- Groups of people: those made here, and those that a directory has.
-- owner: identity/account
CREATE TABLE id_groups (
	id      TEXT PRIMARY KEY, -- ULID
	name    TEXT NOT NULL,    -- as applications are told
	folded  TEXT NOT NULL,    -- the name in small letters
	source  TEXT NOT NULL,    -- local, or the directory that says who is in it
	created INTEGER NOT NULL  -- ms
) WITHOUT ROWID;
CREATE UNIQUE INDEX id_groups_name ON id_groups (folded);

-- owner: identity/account
CREATE TABLE id_group_members (
	group_id TEXT NOT NULL,
	user_id  TEXT NOT NULL, -- ULID of the account
	since    INTEGER NOT NULL,
	PRIMARY KEY (group_id, user_id)
) WITHOUT ROWID;
CREATE INDEX id_group_members_user ON id_group_members (user_id);

-- What people may do beyond using the server. Who has no role is a member.
-- owner: identity/account
CREATE TABLE id_role_grants (
	subject TEXT NOT NULL, -- ULID of an account or a group
	role    TEXT NOT NULL, -- owner, admin, moderator or auditor
	since   INTEGER NOT NULL,
	PRIMARY KEY (subject, role)
) WITHOUT ROWID;

-- Administrators keep what they may do. Whoever set the appliance up owns it, else the
-- first of them whose account is open.
INSERT INTO id_role_grants (subject, role, since) SELECT id, 'admin', created FROM id_users WHERE admin <> 0;
UPDATE id_role_grants SET role = 'owner' WHERE subject = (
	SELECT id FROM id_users WHERE admin <> 0 ORDER BY state <> 'active', source <> 'setup', created, id LIMIT 1);
ALTER TABLE id_users DROP COLUMN admin;
