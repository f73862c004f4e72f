-- Whether an account is suspended, apart from whether it is locked: both may be, and
-- either ends without the other.
ALTER TABLE id_users ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;
UPDATE id_users SET suspended = 1, state = 'active' WHERE state = 'suspended';
