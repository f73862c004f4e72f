-- Passkeys: keys of people's devices, of which the public half lies here.
-- owner: identity/factor
CREATE TABLE id_passkeys (
	cred_id    BLOB PRIMARY KEY,
	user_id    TEXT NOT NULL,    -- ULID of the account
	name       TEXT NOT NULL,    -- what the person calls it
	public_key BLOB NOT NULL,    -- COSE
	sign_count INTEGER NOT NULL, -- that the device counted; 0: it does not count
	aaguid     BLOB NOT NULL,    -- the kind of device, as it says
	flags      INTEGER NOT NULL, -- of the authenticator data, WebAuthn section 6.1
	transports TEXT NOT NULL,    -- with spaces between
	rp_id      TEXT NOT NULL,    -- the name of the appliance that it was made for
	created    INTEGER NOT NULL, -- ms
	last_used  INTEGER NOT NULL  -- ms; 0: never
) WITHOUT ROWID;
CREATE INDEX id_passkeys_user ON id_passkeys (user_id);
