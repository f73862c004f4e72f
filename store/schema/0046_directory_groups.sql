-- What a directory calls a group for good (entryUUID, objectGUID); '': not known.
ALTER TABLE id_groups ADD COLUMN external TEXT NOT NULL DEFAULT '';
CREATE INDEX id_groups_external ON id_groups (source, external) WHERE external <> '';
