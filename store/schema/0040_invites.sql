-- What whoever makes an account by an invite is given with it.
ALTER TABLE id_invites ADD COLUMN roles TEXT NOT NULL DEFAULT '';     -- names, with spaces between
ALTER TABLE id_invites ADD COLUMN group_ids TEXT NOT NULL DEFAULT ''; -- ULIDs of groups, with spaces between
UPDATE id_invites SET roles = 'admin' WHERE admin <> 0;
ALTER TABLE id_invites DROP COLUMN admin;
