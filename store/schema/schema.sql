-- What the migrations make: the whole data model. Generated; `go test ./store/schema -update` writes it anew.

-- owner: homeserver/admin
CREATE TABLE admin_users (
	user_id    TEXT PRIMARY KEY,
	user_type  TEXT NOT NULL DEFAULT '', -- bot, support or ''
	per_second INTEGER,                  -- messages; NULL: the usual limits, 0: none
	burst      INTEGER
) WITHOUT ROWID;

-- owner: appliance/settings
CREATE TABLE appliance_settings (
	key   TEXT PRIMARY KEY, -- "organisation", "server_name", "tls.mode", "claim.hash" ...
	value TEXT NOT NULL,
	since INTEGER NOT NULL  -- Unix milliseconds
) WITHOUT ROWID;

-- owner: homeserver/appservice
CREATE TABLE appservice_cursors (
	id  TEXT PRIMARY KEY,          -- of the registration
	pos INTEGER NOT NULL,          -- receipts, device lists and the like up to here were looked at
	txn INTEGER NOT NULL DEFAULT 0 -- number of the last transaction
) WITHOUT ROWID;

-- owner: homeserver/appservice
CREATE TABLE appservice_queue (
	id      TEXT NOT NULL,
	pos     INTEGER NOT NULL, -- of the event or to-device message
	message TEXT,             -- JSON of the to-device message; NULL: the event is in events
	PRIMARY KEY (id, pos)
) WITHOUT ROWID;

-- owner: homeserver/appservice
CREATE TABLE appservice_registrations (
	id   TEXT PRIMARY KEY,
	yaml TEXT NOT NULL
) WITHOUT ROWID;

-- owner: homeserver/appservice
CREATE TABLE appservice_rooms (
	id         TEXT NOT NULL, -- of the registration
	network_id TEXT NOT NULL,
	room_id    TEXT NOT NULL,
	PRIMARY KEY (id, network_id, room_id)
) WITHOUT ROWID;
CREATE INDEX appservice_rooms_room ON appservice_rooms (room_id);

-- owner: homeserver/appservice
CREATE TABLE appservice_transactions (
	id    TEXT PRIMARY KEY,
	txn   TEXT NOT NULL,    -- ID of the transaction
	up_to INTEGER NOT NULL, -- position
	body  BLOB NOT NULL     -- JSON
) WITHOUT ROWID;

-- owner: store/audit
CREATE TABLE audit_log (
	seq    INTEGER PRIMARY KEY, -- 1, 2, 3, without a gap
	at     INTEGER NOT NULL,    -- ms since 1970
	actor  TEXT NOT NULL,       -- user ID, or a word such as command-line
	event  TEXT NOT NULL,
	target TEXT NOT NULL,       -- who or what it happened to; '': nothing single
	ip     TEXT NOT NULL,       -- '': it did not come over the network
	data   TEXT NOT NULL,       -- canonical JSON, an object
	prev   BLOB NOT NULL,       -- hash of the entry before; 32 zero bytes in the first
	hash   BLOB NOT NULL,       -- SHA-256 of the canonical JSON of all above
	mac    BLOB NOT NULL        -- of the hash
);
CREATE TRIGGER audit_log_append BEFORE INSERT ON audit_log
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit_log)
BEGIN SELECT RAISE(ABORT, 'the audit log grows at its end alone'); END;
CREATE TRIGGER audit_log_delete BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'nothing is removed from the audit log'); END;
CREATE TRIGGER audit_log_update BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is not changed'); END;
CREATE INDEX audit_log_actor ON audit_log (actor);
CREATE INDEX audit_log_at ON audit_log (at);
CREATE INDEX audit_log_target ON audit_log (target);

-- owner: homeserver/calls
CREATE TABLE call_delegations (
	room      TEXT NOT NULL,     -- the relay's name of the call
	identity  TEXT NOT NULL,     -- the relay's name of the participant
	delay_id  TEXT NOT NULL,
	delay_ms  INTEGER NOT NULL,
	PRIMARY KEY (room, identity)
) WITHOUT ROWID;

-- owner: homeserver/calls
CREATE TABLE call_seats (
	room      TEXT NOT NULL,    -- the relay's name of the call
	identity  TEXT NOT NULL,    -- the relay's name of the participant
	room_id   TEXT NOT NULL,
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,    -- '': not known
	expires   INTEGER NOT NULL, -- of a place that was taken away: when its last token does; 0: it was not
	PRIMARY KEY (room, identity)
) WITHOUT ROWID;

-- owner: homeserver/delayed
CREATE TABLE delayed_events (
	delay_id     TEXT PRIMARY KEY, -- also what allows to restart, send or cancel
	user_id      TEXT NOT NULL,
	device_id    TEXT NOT NULL,
	request      TEXT,             -- the request's transaction, so that a retry finds its event; NULL: it has none
	room_id      TEXT NOT NULL,
	type         TEXT NOT NULL,
	state_key    TEXT,             -- NULL: a message
	content      TEXT NOT NULL,
	origin_ts    INTEGER NOT NULL, -- of an application service that sets it, ms; 0: the time of sending
	delay_ms     INTEGER NOT NULL,
	since_ts     INTEGER NOT NULL, -- when it was scheduled or last restarted, ms
	due_ts       INTEGER,          -- ms; NULL: it was sent or dropped
	finalised_ts INTEGER,          -- ms; NULL: it waits
	event_id     TEXT,             -- of the event that was sent
	error        TEXT              -- JSON: why it could not be sent
);
CREATE INDEX delayed_events_due ON delayed_events (due_ts) WHERE due_ts IS NOT NULL;
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_ts) WHERE finalised_ts IS NOT NULL;
CREATE UNIQUE INDEX delayed_events_request ON delayed_events (user_id, device_id, request) WHERE request IS NOT NULL;
CREATE INDEX delayed_events_room ON delayed_events (room_id);
CREATE INDEX delayed_events_user ON delayed_events (user_id, due_ts);

-- owner: homeserver/todevice
CREATE TABLE device_message_txns (
	user_id    TEXT NOT NULL,
	device_id  TEXT NOT NULL,
	txn_id     TEXT NOT NULL, -- event type and the client's transaction ID
	created_ts INTEGER NOT NULL, -- ms
	PRIMARY KEY (user_id, device_id, txn_id)
) WITHOUT ROWID;
CREATE INDEX device_message_txns_age ON device_message_txns (created_ts);

-- owner: homeserver/todevice
CREATE TABLE device_messages (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	pos       INTEGER NOT NULL,
	message   TEXT NOT NULL, -- JSON object as sync gives it: sender, type, content
	PRIMARY KEY (user_id, device_id, pos)
) WITHOUT ROWID;

-- owner: homeserver/devices
CREATE TABLE devices (
	user_id      TEXT NOT NULL,
	device_id    TEXT NOT NULL,
	display_name TEXT NOT NULL DEFAULT '',
	created_ts   INTEGER NOT NULL,           -- ms
	seen_ts      INTEGER NOT NULL DEFAULT 0, -- ms; written at most every few minutes
	seen_ip      TEXT NOT NULL DEFAULT '',
	seen_agent   TEXT NOT NULL DEFAULT '',
	PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_backup_keys (
	user_id             TEXT NOT NULL,
	version             INTEGER NOT NULL,
	room_id             TEXT NOT NULL,
	session_id          TEXT NOT NULL,
	first_message_index INTEGER NOT NULL,
	forwarded_count     INTEGER NOT NULL,
	is_verified         INTEGER NOT NULL,
	session_data        TEXT NOT NULL, -- JSON object, encrypted by the client
	PRIMARY KEY (user_id, version, room_id, session_id)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_backups (
	user_id   TEXT NOT NULL,
	version   INTEGER NOT NULL,
	algorithm TEXT NOT NULL,
	auth_data TEXT NOT NULL, -- JSON object
	etag      INTEGER NOT NULL DEFAULT 0, -- grows with each change
	count     INTEGER NOT NULL DEFAULT 0, -- sessions stored
	deleted   INTEGER NOT NULL DEFAULT 0, -- 1: gone, kept so that its number is not used again
	PRIMARY KEY (user_id, version)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_cross_signing_keys (
	user_id    TEXT NOT NULL,
	usage      TEXT NOT NULL, -- master, self_signing or user_signing
	public_key TEXT NOT NULL, -- unpadded base64
	key        TEXT NOT NULL, -- JSON object as uploaded
	PRIMARY KEY (user_id, usage)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_dehydrated (
	user_id     TEXT PRIMARY KEY,
	device_id   TEXT NOT NULL,
	device_data TEXT NOT NULL -- JSON object
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_device_keys (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	keys      TEXT NOT NULL, -- JSON object
	PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_fallback_keys (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	key_id    TEXT NOT NULL,
	key       TEXT NOT NULL, -- JSON
	used      INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (user_id, device_id, algorithm)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_list_changes (
	user_id TEXT PRIMARY KEY,
	pos     INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX e2ee_list_changes_pos ON e2ee_list_changes (pos);

-- owner: homeserver/e2ee
CREATE TABLE e2ee_one_time_keys (
	seq       INTEGER PRIMARY KEY, -- above all those that wait
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	key_id    TEXT NOT NULL,
	key       TEXT NOT NULL, -- JSON
	UNIQUE (user_id, device_id, algorithm, key_id)
);
CREATE INDEX e2ee_one_time_keys_order ON e2ee_one_time_keys (user_id, device_id, algorithm, seq);

-- owner: homeserver/e2ee
CREATE TABLE e2ee_sharing (
	room_id TEXT NOT NULL,
	pos     INTEGER NOT NULL,
	user_id TEXT NOT NULL,
	joined  INTEGER NOT NULL, -- 1: joined, 0: left
	PRIMARY KEY (user_id, room_id, pos)
) WITHOUT ROWID;
CREATE INDEX e2ee_sharing_pos ON e2ee_sharing (pos);

-- owner: homeserver/e2ee
CREATE TABLE e2ee_signatures (
	user_id   TEXT NOT NULL, -- whose key is signed
	target    TEXT NOT NULL, -- device ID or public key
	signer    TEXT NOT NULL, -- user ID
	key_id    TEXT NOT NULL, -- "ed25519:..."
	signature TEXT NOT NULL,
	PRIMARY KEY (user_id, target, signer, key_id)
) WITHOUT ROWID;

-- owner: homeserver/e2ee
CREATE TABLE e2ee_signed_users (
	signer  TEXT NOT NULL,
	user_id TEXT NOT NULL,
	pos     INTEGER NOT NULL,
	PRIMARY KEY (signer, user_id)
) WITHOUT ROWID;

-- owner: homeserver/timeline
CREATE TABLE erased_users (
	user_id TEXT PRIMARY KEY,
	pos     INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: homeserver/rooms
CREATE TABLE events (
	pos         INTEGER PRIMARY KEY,
	room        INTEGER NOT NULL,
	event_id    TEXT NOT NULL UNIQUE,
	type        TEXT NOT NULL,
	state_key   TEXT,
	sender      TEXT NOT NULL,
	ts          INTEGER NOT NULL, -- origin_server_ts
	state_group INTEGER NOT NULL, -- state before the event; 0: none
	replaces    INTEGER NOT NULL DEFAULT 0, -- pos of the state event it took the place of
	device      TEXT,
	txn         TEXT,             -- the device's transaction ID
	relates_to  TEXT,
	rel_type    TEXT,
	redacted_by TEXT,             -- event ID of the redaction
	extra       TEXT,             -- what our own server puts in unsigned
	json        BLOB NOT NULL     -- the signed PDU
);
CREATE INDEX events_relation ON events (relates_to, rel_type, pos) WHERE relates_to IS NOT NULL;
CREATE INDEX events_room ON events (room, pos);
CREATE INDEX events_state ON events (room, type, state_key, pos) WHERE state_key IS NOT NULL;
CREATE UNIQUE INDEX events_txn ON events (sender, device, txn, room, type) WHERE txn IS NOT NULL;

-- owner: homeserver/grouprooms
CREATE TABLE group_room_people (
	room_id  TEXT NOT NULL,
	user_id  TEXT NOT NULL,
	state    INTEGER NOT NULL, -- 0: could not be put in yet, 1: is in, 2: was in and left, or was put out by others
	placed   INTEGER NOT NULL, -- a rule put them in; else they were in before
	take_out INTEGER NOT NULL, -- as in group_rooms
	level    INTEGER NOT NULL, -- power level that was settled; 0: none, -1: it could not be yet
	given    INTEGER NOT NULL, -- power level that they were given; 0: none
	back     INTEGER,          -- level of their own before; NULL: none
	trouble  TEXT NOT NULL,    -- why it could not be done; '': it was
	PRIMARY KEY (room_id, user_id)
) WITHOUT ROWID;
CREATE INDEX group_room_people_user ON group_room_people (user_id);

-- owner: homeserver/grouprooms
CREATE TABLE group_rooms (
	group_id TEXT NOT NULL,    -- ULID of the group
	room_id  TEXT NOT NULL,
	level    INTEGER NOT NULL, -- power level that they get; 0: the room's default
	take_out INTEGER NOT NULL, -- who leaves the group stays (0), is out if a rule put them in (1), or is out in any case (2)
	rooms    INTEGER NOT NULL, -- the rooms of the space, too
	created  INTEGER NOT NULL,
	PRIMARY KEY (group_id, room_id)
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_access_tokens (
	hash       BLOB PRIMARY KEY,
	session_id TEXT NOT NULL,
	refresh    BLOB,             -- the refresh token it was given out with
	scopes     TEXT NOT NULL,
	expires    INTEGER NOT NULL, -- 0: never
	first_used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_access_tokens_expires ON id_access_tokens (expires) WHERE expires <> 0;
CREATE INDEX id_access_tokens_session ON id_access_tokens (session_id);

-- owner: identity/register
CREATE TABLE id_app_groups (
	app_id   TEXT NOT NULL,
	group_id TEXT NOT NULL, -- ULID
	gone     TEXT NOT NULL, -- the name of a group that was removed, whose row keeps the application from being everybody's; '': it is there
	PRIMARY KEY (app_id, group_id)
) WITHOUT ROWID;
CREATE INDEX id_app_groups_group ON id_app_groups (group_id);

-- owner: identity/register
CREATE TABLE id_app_secrets (
	app_id    TEXT NOT NULL,
	id        TEXT NOT NULL,
	hash      BLOB NOT NULL,
	created   INTEGER NOT NULL,
	last_used INTEGER NOT NULL, -- 0: never
	PRIMARY KEY (app_id, id)
) WITHOUT ROWID;

-- owner: identity/register
CREATE TABLE id_apps (
	id         TEXT PRIMARY KEY, -- the client_id
	config     TEXT NOT NULL,    -- JSON, validated
	disabled   INTEGER NOT NULL,
	created    INTEGER NOT NULL,
	created_by TEXT NOT NULL,    -- user ID; '': the command line
	last_used  INTEGER NOT NULL  -- last sign-in that began; 0: never
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_assertions (
	hash    BLOB PRIMARY KEY, -- SHA-256 of client and jti
	expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_assertions_expires ON id_assertions (expires);

-- owner: identity/account
CREATE TABLE id_auth_failures (
	key   BLOB PRIMARY KEY, -- hash of what failed: name and address
	count INTEGER NOT NULL,
	until INTEGER NOT NULL, -- no attempt is looked at before
	at    INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_auth_requests (
	id           TEXT PRIMARY KEY,
	client_id    TEXT NOT NULL,
	browser_hash BLOB NOT NULL, -- of the cookie of the browser that began it
	params       TEXT NOT NULL, -- JSON: the checked parameters
	user_id      TEXT NOT NULL, -- '': nobody signed in yet
	auth_time    INTEGER NOT NULL,
	state        TEXT NOT NULL, -- open, done, code, used
	code_hash    BLOB UNIQUE,
	code_expires INTEGER NOT NULL,
	session_id   TEXT NOT NULL, -- made from the code; ended when the code comes again
	expires      INTEGER NOT NULL
, signed TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX id_auth_requests_expires ON id_auth_requests (expires);
CREATE INDEX id_auth_requests_user ON id_auth_requests (user_id) WHERE state IN ('done', 'code');

-- owner: identity/account
CREATE TABLE id_batches (
	id         TEXT PRIMARY KEY, -- ULID
	name       TEXT NOT NULL,
	kind       TEXT NOT NULL,    -- invite, enrol or recovery
	pins       INTEGER NOT NULL, -- its cards need a PIN
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL,
	created_by TEXT NOT NULL     -- user ID, or '' for the command line
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_browser_sessions (
	hash      BLOB PRIMARY KEY, -- of the cookie
	user_id   TEXT NOT NULL,
	auth_time INTEGER NOT NULL, -- when the person last proved who they are
	created   INTEGER NOT NULL,
	expires   INTEGER NOT NULL
, sid TEXT NOT NULL DEFAULT '', amr TEXT NOT NULL DEFAULT 'pwd', used INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX id_browser_sessions_user ON id_browser_sessions (user_id);

-- owner: identity/account
CREATE TABLE id_cards (
	id      TEXT PRIMARY KEY, -- of the invite or the link that it is
	batch   TEXT NOT NULL,
	number  INTEGER NOT NULL, -- in its batch, from 1
	user_id TEXT NOT NULL,    -- ULID of the account that it is for, or that it made; '': none yet
	pin     BLOB,             -- HMAC of its code and PIN; NULL: it needs none
	wrong   INTEGER NOT NULL  -- wrong PINs that were typed
) WITHOUT ROWID;
CREATE UNIQUE INDEX id_cards_batch ON id_cards (batch, number);

-- owner: identity/register
CREATE TABLE id_clients (
	id        TEXT PRIMARY KEY,
	digest    BLOB NOT NULL UNIQUE, -- of metadata: the same registration gives the same client
	metadata  TEXT NOT NULL,        -- JSON, validated
	created   INTEGER NOT NULL,
	last_used INTEGER NOT NULL      -- last sign-in that began; 0: never
) WITHOUT ROWID;

-- owner: identity/clock
CREATE TABLE id_clock (
	id         INTEGER PRIMARY KEY CHECK (id = 1),
	high_water INTEGER NOT NULL -- ms since 1970
);

-- owner: identity/opstore
CREATE TABLE id_consents (
	user_id   TEXT NOT NULL, -- ULID
	client_id TEXT NOT NULL,
	scopes    TEXT NOT NULL,
	granted   INTEGER NOT NULL,
	PRIMARY KEY (user_id, client_id)
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_device_grants (
	device_hash BLOB PRIMARY KEY,     -- SHA-256 of the device code
	user_hash   BLOB NOT NULL UNIQUE, -- SHA-256 of the user code
	client_id   TEXT NOT NULL,
	scopes      TEXT NOT NULL,
	device_id   TEXT NOT NULL,        -- '': not for the Matrix API
	address     TEXT NOT NULL,        -- that the device asked from
	agent       TEXT NOT NULL,        -- what it said to be
	state       TEXT NOT NULL,        -- open, agreed, denied, used
	user_id     TEXT NOT NULL,        -- ULID of who agreed, or ''
	auth_time   INTEGER NOT NULL,     -- ms
	session_id  TEXT NOT NULL,        -- made from it; ended when the code comes again
	created     INTEGER NOT NULL,     -- ms
	expires     INTEGER NOT NULL      -- ms
, signed TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX id_device_grants_expires ON id_device_grants (expires);
CREATE INDEX id_device_grants_user ON id_device_grants (user_id) WHERE state = 'agreed';

-- owner: identity/roster
CREATE TABLE id_directories (
	id      TEXT PRIMARY KEY, -- short name, chosen by an administrator
	config  TEXT NOT NULL,    -- JSON, sealed by the identity provider's key
	created INTEGER NOT NULL,
	synced  INTEGER NOT NULL, -- end of the last reading that was taken; 0: none
	report  TEXT NOT NULL     -- JSON of the last reading
) WITHOUT ROWID;

-- owner: identity/roster
CREATE TABLE id_directory_people (
	directory TEXT NOT NULL,
	subject   TEXT NOT NULL,   -- what the directory calls the person for good
	user_id   TEXT NOT NULL UNIQUE,
	name      TEXT NOT NULL,   -- user name in the directory
	full_name TEXT NOT NULL,   -- as last taken over
	locked    INTEGER NOT NULL, stamp TEXT NOT NULL DEFAULT '', picture TEXT NOT NULL DEFAULT '', avatar TEXT NOT NULL DEFAULT '', trouble TEXT NOT NULL DEFAULT '', -- the account is locked because the directory says so
	PRIMARY KEY (directory, subject)
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_email_proofs (
	sid         TEXT PRIMARY KEY,
	purpose     TEXT NOT NULL,    -- register, add or password
	address     TEXT NOT NULL,
	secret_hash BLOB NOT NULL,    -- SHA-256 of the client's secret
	user_id     TEXT NOT NULL,    -- whose address it was when a password was asked for, or ''
	next_link   TEXT NOT NULL,    -- where the browser goes afterwards, or ''
	attempt     INTEGER NOT NULL, -- the highest send_attempt of the client
	sent        INTEGER NOT NULL, -- mails
	created     INTEGER NOT NULL, -- ms
	expires     INTEGER NOT NULL, -- ms
	validated   INTEGER NOT NULL  -- ms; 0: not yet
) WITHOUT ROWID;
CREATE INDEX id_email_proofs_address ON id_email_proofs (address);
CREATE UNIQUE INDEX id_email_proofs_client ON id_email_proofs (purpose, address, secret_hash);

-- owner: identity/account
CREATE TABLE id_email_tokens (
	hash BLOB PRIMARY KEY, -- SHA-256 of the token
	sid  TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_email_tokens_sid ON id_email_tokens (sid);

-- owner: identity/account
CREATE TABLE id_emails (
	address   TEXT PRIMARY KEY,
	user_id   TEXT NOT NULL,    -- ULID of the account
	validated INTEGER NOT NULL, -- ms
	added     INTEGER NOT NULL  -- ms
) WITHOUT ROWID;
CREATE INDEX id_emails_user ON id_emails (user_id);

-- owner: identity/account
CREATE TABLE id_group_given (
	group_id TEXT NOT NULL,
	user_id  TEXT NOT NULL, -- ULID of the account
	origin   TEXT NOT NULL, -- "upstream" and the provider's short name
	PRIMARY KEY (group_id, user_id, origin)
) WITHOUT ROWID;
CREATE INDEX id_group_given_origin ON id_group_given (origin, user_id);
CREATE INDEX id_group_given_user ON id_group_given (user_id, origin);

-- owner: identity/account
CREATE TABLE id_group_members (
	group_id TEXT NOT NULL,
	user_id  TEXT NOT NULL, -- ULID of the account
	since    INTEGER NOT NULL,
	PRIMARY KEY (group_id, user_id)
) WITHOUT ROWID;
CREATE INDEX id_group_members_user ON id_group_members (user_id);

-- owner: identity/account
CREATE TABLE id_groups (
	id      TEXT PRIMARY KEY, -- ULID
	name    TEXT NOT NULL,    -- as applications are told
	folded  TEXT NOT NULL,    -- the name in small letters
	source  TEXT NOT NULL,    -- local, or the directory that says who is in it
	created INTEGER NOT NULL  -- ms
, external TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX id_groups_external ON id_groups (source, external) WHERE external <> '';
CREATE UNIQUE INDEX id_groups_name ON id_groups (folded);

-- owner: identity/account
CREATE TABLE id_invites (
	id         TEXT PRIMARY KEY,
	hash       BLOB NOT NULL UNIQUE,
	localpart  TEXT NOT NULL, -- '': the person chooses
	uses       INTEGER NOT NULL,
	uses_left  INTEGER NOT NULL,
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL,
	created_by TEXT NOT NULL, -- user ID
	revoked    INTEGER NOT NULL
, roles TEXT NOT NULL DEFAULT '', group_ids TEXT NOT NULL DEFAULT '') WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_keys (
	kid     TEXT PRIMARY KEY,
	alg     TEXT NOT NULL,
	sealed  BLOB NOT NULL, -- private key, sealed under the key file
	created INTEGER NOT NULL
, active_from INTEGER NOT NULL DEFAULT 0, retired INTEGER NOT NULL DEFAULT 0, public BLOB) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_links (
	id         TEXT PRIMARY KEY, -- ULID
	hash       BLOB NOT NULL UNIQUE, -- SHA-256 of the token
	user_id    TEXT NOT NULL,    -- ULID of the account
	kind       TEXT NOT NULL,    -- recovery or enrol
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL,
	used       INTEGER NOT NULL, -- 0: not yet
	created_by TEXT NOT NULL,    -- user ID, or '' for the command line
	revoked    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_links_user ON id_links (user_id);

-- owner: identity/bulk
CREATE TABLE id_list_people (
	list      TEXT NOT NULL,    -- name of the list
	subject   TEXT NOT NULL,    -- what identifies the person in it
	user_id   TEXT NOT NULL UNIQUE, -- ULID of the account
	name      TEXT NOT NULL,    -- user name in the list
	full_name TEXT NOT NULL,    -- as last taken over
	locked    INTEGER NOT NULL, -- the account is locked because the list says so
	PRIMARY KEY (list, subject)
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_login_tokens (
	hash    BLOB PRIMARY KEY,
	user_id TEXT NOT NULL,
	expires INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_logins (
	user_id   TEXT NOT NULL,    -- ULID
	sid       TEXT NOT NULL,    -- of the browser session; '': a device without one
	client_id TEXT NOT NULL,
	issuer    TEXT NOT NULL,    -- by which the application knows the appliance
	created   INTEGER NOT NULL,
	PRIMARY KEY (user_id, sid, client_id)
) WITHOUT ROWID;
CREATE INDEX id_logins_client ON id_logins (client_id);

-- owner: identity/opstore
CREATE TABLE id_logouts (
	id        TEXT PRIMARY KEY, -- ULID; the jti
	client_id TEXT NOT NULL,
	user_id   TEXT NOT NULL,
	sid       TEXT NOT NULL,    -- '': all of the person's sessions there
	issuer    TEXT NOT NULL,
	created   INTEGER NOT NULL,
	tries     INTEGER NOT NULL,
	next      INTEGER NOT NULL  -- not tried before
) WITHOUT ROWID;
CREATE INDEX id_logouts_client ON id_logouts (client_id);
CREATE INDEX id_logouts_next ON id_logouts (next);

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

-- owner: identity/account
CREATE TABLE id_passwords (
	user_id TEXT PRIMARY KEY,
	phc     TEXT NOT NULL, -- argon2id
	changed INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/factor
CREATE TABLE id_recovery_codes (
	user_id TEXT NOT NULL,
	hash    BLOB NOT NULL,    -- HMAC-SHA256 under the key file
	created INTEGER NOT NULL,
	used    INTEGER NOT NULL, -- 0: still good
	PRIMARY KEY (user_id, hash)
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_refresh_tokens (
	hash       BLOB PRIMARY KEY,
	session_id TEXT NOT NULL,
	parent     BLOB,             -- the token this one replaced
	created    INTEGER NOT NULL,
	expires    INTEGER NOT NULL,
	consumed   INTEGER NOT NULL  -- when its child was first used; 0: still good
) WITHOUT ROWID;
CREATE INDEX id_refresh_tokens_consumed ON id_refresh_tokens (consumed) WHERE consumed <> 0;
CREATE INDEX id_refresh_tokens_session ON id_refresh_tokens (session_id);

-- owner: identity/account
CREATE TABLE id_registration_tokens (
	token     TEXT PRIMARY KEY,
	uses      INTEGER,          -- NULL: no bound
	completed INTEGER NOT NULL DEFAULT 0,
	expires   INTEGER,          -- ms; NULL: never
	created   INTEGER NOT NULL  -- ms
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_resets (
	user_id TEXT PRIMARY KEY,
	until   INTEGER NOT NULL -- cross-signing keys may be replaced until then
) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_role_grants (
	subject TEXT NOT NULL, -- ULID of an account or a group
	role    TEXT NOT NULL, -- owner, admin, moderator or auditor
	since   INTEGER NOT NULL,
	PRIMARY KEY (subject, role)
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_sealed (
	name   TEXT PRIMARY KEY,
	sealed BLOB NOT NULL
) WITHOUT ROWID;

-- owner: identity/opstore
CREATE TABLE id_sessions (
	id          TEXT PRIMARY KEY,
	user_id     TEXT NOT NULL,
	client_id   TEXT NOT NULL, -- '': a legacy login
	scopes      TEXT NOT NULL,
	device_id   TEXT NOT NULL, -- '': no Matrix device
	auth_time   INTEGER NOT NULL,
	created     INTEGER NOT NULL,
	last_active INTEGER NOT NULL,
	ended       INTEGER NOT NULL, -- 0: alive
	reason      TEXT NOT NULL
, signed TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX id_sessions_client ON id_sessions (client_id) WHERE ended = 0;
CREATE INDEX id_sessions_ended ON id_sessions (ended) WHERE ended <> 0;
CREATE INDEX id_sessions_user ON id_sessions (user_id, device_id) WHERE ended = 0;

-- owner: identity/factor
CREATE TABLE id_totp (
	user_id   TEXT PRIMARY KEY, -- ULID of the account
	sealed    BLOB NOT NULL,    -- the shared secret, under the key file
	last_step INTEGER NOT NULL, -- the newest time step that was used; each is good once
	created   INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: identity/upstream
CREATE TABLE id_upstream_links (
	issuer  TEXT NOT NULL,
	subject TEXT NOT NULL,
	user_id TEXT NOT NULL, -- ULID
	created INTEGER NOT NULL,
	PRIMARY KEY (issuer, subject)
) WITHOUT ROWID;
CREATE INDEX id_upstream_links_user ON id_upstream_links (user_id);

-- owner: identity/upstream
CREATE TABLE id_upstream_sessions (
	sid      TEXT PRIMARY KEY, -- names the browser session
	user_id  TEXT NOT NULL,    -- ULID
	upstream TEXT NOT NULL,    -- short name of the provider
	issuer   TEXT NOT NULL,
	subject  TEXT NOT NULL,    -- the provider's word for the person: SAML's NameID
	session  TEXT NOT NULL,    -- and for the session, if it has one: SAML's SessionIndex
	data     TEXT NOT NULL,    -- JSON: what else it is told when the session ends here
	created  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_upstream_sessions_subject ON id_upstream_sessions (issuer, subject);

-- owner: identity/upstream
CREATE TABLE id_upstream_used (
	hash  BLOB PRIMARY KEY, -- SHA-256 of issuer and ID
	until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX id_upstream_used_until ON id_upstream_used (until);

-- owner: identity/upstream
CREATE TABLE id_upstreams (
	id      TEXT PRIMARY KEY, -- short name, chosen by an administrator
	config  TEXT NOT NULL,    -- JSON, sealed by the identity provider's key
	created INTEGER NOT NULL
, heard INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;

-- owner: identity/account
CREATE TABLE id_users (
	id           TEXT PRIMARY KEY, -- ULID, the OpenID subject
	localpart    TEXT NOT NULL UNIQUE,
	display_name TEXT NOT NULL,    -- as given when the account was made
	state        TEXT NOT NULL,    -- active, suspended, locked or deactivated
	source       TEXT NOT NULL,    -- what made the account
	created      INTEGER NOT NULL,
	last_seen    INTEGER NOT NULL  -- last sign-in; 0: never
, suspended INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;

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
, quarantined_by TEXT, protected INTEGER NOT NULL DEFAULT 0, accessed_ts INTEGER NOT NULL DEFAULT 0, preview INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX media_accessed ON media (accessed_ts) WHERE hash IS NOT NULL;
CREATE INDEX media_hash ON media (hash) WHERE hash IS NOT NULL;
CREATE INDEX media_user ON media (user_id, created_ts);
CREATE INDEX media_waiting ON media (expires_ts) WHERE hash IS NULL;

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

-- owner: homeserver/media
CREATE TABLE media_quarantine (
	hash    TEXT PRIMARY KEY, -- blob
	by_user TEXT NOT NULL,
	since   INTEGER NOT NULL  -- ms
) WITHOUT ROWID;

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
CREATE INDEX media_thumbnails_blob ON media_thumbnails (thumbnail);

-- owner: homeserver/media
CREATE TABLE media_usage (
	user_id TEXT PRIMARY KEY,
	files   INTEGER NOT NULL,
	bytes   INTEGER NOT NULL
) WITHOUT ROWID;

-- owner: homeserver/calls
CREATE TABLE openid_tokens (
	hash    BLOB PRIMARY KEY,  -- SHA-256
	user_id TEXT NOT NULL,
	expires INTEGER NOT NULL   -- ms
) WITHOUT ROWID;
CREATE INDEX openid_tokens_expires ON openid_tokens (expires);
CREATE INDEX openid_tokens_user ON openid_tokens (user_id, expires);

-- owner: homeserver/push
CREATE TABLE push_counts (
	user_id TEXT NOT NULL,
	room_id TEXT NOT NULL,
	pos     INTEGER NOT NULL,
	data    TEXT NOT NULL, -- JSON
	PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;
CREATE INDEX push_counts_room ON push_counts (room_id);

-- owner: homeserver/push/pusher
CREATE TABLE pusher_mails (
	pusher_id INTEGER PRIMARY KEY,
	secret    TEXT NOT NULL,    -- of the link in the messages, which can do nothing but end them
	sent_ts   INTEGER NOT NULL, -- ms; of the last message; 0: none
	in_row    INTEGER NOT NULL  -- messages since the user read anything
);

-- owner: homeserver/push/pusher
CREATE TABLE pushers (
	id          INTEGER PRIMARY KEY,
	user_id     TEXT NOT NULL,
	device_id   TEXT NOT NULL, -- whose session set it; it ends with the device
	app_id      TEXT NOT NULL,
	pushkey     TEXT NOT NULL,
	app_name    TEXT NOT NULL,
	device_name TEXT NOT NULL,
	profile_tag TEXT NOT NULL,
	lang        TEXT NOT NULL,
	url         TEXT NOT NULL,
	data        TEXT NOT NULL,    -- JSON, with the url
	enabled     INTEGER NOT NULL,
	set_ts      INTEGER NOT NULL, -- ms; when the pushkey was last set
	pos         INTEGER NOT NULL, -- events up to here are pushed, or will not be
	badge       INTEGER NOT NULL, -- unread count that the gateway was told last; -1: none
	failures    INTEGER NOT NULL, -- in a row
	retry_ts    INTEGER NOT NULL, -- ms; nothing is sent before
	UNIQUE (app_id, pushkey, user_id)
);
CREATE INDEX pushers_user ON pushers (user_id);

-- owner: homeserver/reports
CREATE TABLE reports (
	id       INTEGER PRIMARY KEY,        -- position when it was made: never used twice
	kind     TEXT NOT NULL,              -- event, room or user
	room_id  TEXT NOT NULL DEFAULT '',   -- of the event, or the room itself
	event_id TEXT NOT NULL DEFAULT '',
	user_id  TEXT NOT NULL DEFAULT '',   -- the event's sender, or the user itself
	reporter TEXT NOT NULL,
	reason   TEXT NOT NULL,
	score    INTEGER,                    -- of events, from older clients: -100 is most offensive
	ts       INTEGER NOT NULL            -- ms
);
CREATE INDEX reports_reporter ON reports (reporter, id);
CREATE INDEX reports_room ON reports (room_id, id);
CREATE INDEX reports_user ON reports (user_id, id);

-- owner: homeserver/rooms
CREATE TABLE room_aliases (
	alias   TEXT PRIMARY KEY,
	room    INTEGER NOT NULL,
	creator TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX room_aliases_room ON room_aliases (room);

-- owner: homeserver/rooms
CREATE TABLE room_blocks (
	room_id TEXT PRIMARY KEY,
	user_id TEXT NOT NULL,   -- who blocked it
	ts      INTEGER NOT NULL -- ms
) WITHOUT ROWID;

-- owner: homeserver/rooms
CREATE TABLE room_departures (
	user_id  TEXT NOT NULL,
	room_id  TEXT NOT NULL,
	pos      INTEGER NOT NULL, -- of the event
	version  TEXT NOT NULL,    -- of the room
	event_id TEXT NOT NULL,
	ts       INTEGER NOT NULL, -- ms; when the room was deleted
	json     BLOB NOT NULL,    -- the member event
	PRIMARY KEY (user_id, room_id)
) WITHOUT ROWID;
CREATE INDEX room_departures_age ON room_departures (ts);
CREATE INDEX room_departures_pos ON room_departures (pos);

-- owner: homeserver/rooms
CREATE TABLE room_members (
	user_id    TEXT NOT NULL,
	room       INTEGER NOT NULL,
	membership TEXT NOT NULL,
	sender     TEXT NOT NULL,
	event      INTEGER NOT NULL, -- pos
	forgotten  INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (user_id, room)
) WITHOUT ROWID;
CREATE INDEX room_members_room ON room_members (room, membership, user_id);

-- owner: homeserver/ephemeral
CREATE TABLE room_receipts (
	room_id   TEXT NOT NULL,
	user_id   TEXT NOT NULL,
	type      TEXT NOT NULL, -- m.read, m.read.private, or m.fully_read only to keep the marker monotonic
	thread_id TEXT NOT NULL, -- '': unthreaded
	event_id  TEXT NOT NULL,
	event_pos INTEGER NOT NULL, -- position of the event: receipts only move forward
	ts        INTEGER NOT NULL, -- ms
	pos       INTEGER NOT NULL,
	PRIMARY KEY (room_id, user_id, type, thread_id)
) WITHOUT ROWID;
CREATE INDEX room_receipts_all ON room_receipts (pos);
CREATE INDEX room_receipts_pos ON room_receipts (room_id, pos);
CREATE INDEX room_receipts_private ON room_receipts (user_id, pos) WHERE type = 'm.read.private';

-- owner: homeserver/rooms
CREATE TABLE room_state (
	room      INTEGER NOT NULL,
	type      TEXT NOT NULL,
	state_key TEXT NOT NULL,
	event     INTEGER NOT NULL, -- pos
	PRIMARY KEY (room, type, state_key)
) WITHOUT ROWID;

-- owner: homeserver/ephemeral
CREATE TABLE room_typing (
	room_id TEXT PRIMARY KEY
) WITHOUT ROWID;

-- owner: homeserver/rooms
CREATE TABLE rooms (
	nid     INTEGER PRIMARY KEY,
	room_id TEXT NOT NULL UNIQUE,
	version TEXT NOT NULL,
	public  INTEGER NOT NULL DEFAULT 0, -- listed in the room directory
	created INTEGER NOT NULL            -- ms
);

-- owner: homeserver/search
CREATE VIRTUAL TABLE search_index USING fts5 (text, content = 'search_texts', content_rowid = 'pos',
	tokenize = "unicode61 remove_diacritics 2 categories 'L* M* N* Co So'");

-- owner: homeserver/search
CREATE TABLE search_progress (
	id   INTEGER PRIMARY KEY CHECK (id = 1),
	low  INTEGER NOT NULL,
	high INTEGER NOT NULL
);

-- owner: homeserver/search
CREATE TABLE search_texts (
	pos    INTEGER PRIMARY KEY, -- of the event that says it
	event  INTEGER NOT NULL,    -- position of the event that is found by it: itself, or the one that it edits
	room   INTEGER NOT NULL,
	key    TEXT NOT NULL,       -- of the content: body, name or topic
	sender TEXT NOT NULL,
	text   TEXT NOT NULL
);
CREATE INDEX search_texts_edit ON search_texts (event) WHERE event <> pos;

-- owner: homeserver/rooms
CREATE TABLE server_keys (
	key_id  TEXT PRIMARY KEY, -- "ed25519:a1b2c3"
	private BLOB NOT NULL,    -- Ed25519 seed
	created INTEGER NOT NULL, -- ms
	expired INTEGER           -- ms; NULL: in use
) WITHOUT ROWID;

-- owner: homeserver/sliding
CREATE TABLE sliding_connections (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	conn_id   TEXT NOT NULL,
	serial    INTEGER NOT NULL, -- tells connections of one name apart
	answer    INTEGER NOT NULL, -- number of the last answer
	pos       INTEGER NOT NULL, -- position that it was as of
	used_ts   INTEGER NOT NULL, -- ms
	state     TEXT NOT NULL,    -- JSON: what was sent of each room
	PRIMARY KEY (user_id, device_id, conn_id)
) WITHOUT ROWID;
CREATE INDEX sliding_connections_used ON sliding_connections (used_ts);

-- owner: homeserver/rooms
CREATE TABLE state_groups (
	id        INTEGER PRIMARY KEY,
	prev      INTEGER,
	chain     INTEGER NOT NULL, -- groups back to the snapshot; 0: it is one
	type      TEXT NOT NULL,
	state_key TEXT NOT NULL
);

-- owner: homeserver/rooms
CREATE TABLE state_snapshots (
	state_group INTEGER NOT NULL,
	type        TEXT NOT NULL,
	state_key   TEXT NOT NULL,
	event       INTEGER NOT NULL, -- pos
	PRIMARY KEY (state_group, type, state_key)
) WITHOUT ROWID;

-- owner: store/sealed
CREATE TABLE store_sealed (
	name TEXT PRIMARY KEY
) WITHOUT ROWID;

-- owner: store
CREATE TABLE store_sequence (
	name  TEXT PRIMARY KEY,
	value INTEGER NOT NULL -- positions up to here may have been handed out
) WITHOUT ROWID;

-- owner: homeserver/tasks
CREATE TABLE tasks (
	seq      INTEGER PRIMARY KEY,      -- position when it was scheduled: their order
	id       TEXT NOT NULL UNIQUE,
	action   TEXT NOT NULL,
	resource TEXT NOT NULL,            -- what it works on, such as a room ID; '': nothing in particular
	status   TEXT NOT NULL,            -- scheduled, active, complete, cancelled or failed
	ts       INTEGER NOT NULL,         -- ms; when it came to its status
	params   TEXT NOT NULL,            -- JSON
	cursor   TEXT,                     -- JSON: how far it has come
	result   TEXT,                     -- JSON
	error    TEXT NOT NULL DEFAULT ''
);
CREATE INDEX tasks_age ON tasks (ts);
CREATE INDEX tasks_open ON tasks (seq) WHERE status IN ('scheduled', 'active');
CREATE INDEX tasks_resource ON tasks (resource, seq);

-- owner: homeserver/threads
CREATE TABLE thread_subscribers (
	user_id TEXT PRIMARY KEY,
	pos     INTEGER NOT NULL -- since when
) WITHOUT ROWID;

-- owner: homeserver/threads
CREATE TABLE thread_subscriptions (
	user_id  TEXT NOT NULL,
	room_id  TEXT NOT NULL,
	root     TEXT NOT NULL,    -- event ID
	state    INTEGER NOT NULL, -- 0: not subscribed, 1: by the user's choice, 2: automatically
	ended_at INTEGER NOT NULL, -- position up to which events cause no automatic subscription; 0: none
	pos      INTEGER NOT NULL, -- of the last change that clients are told of; 0: none
	PRIMARY KEY (user_id, room_id, root)
) WITHOUT ROWID;
CREATE INDEX thread_subscriptions_pos ON thread_subscriptions (user_id, pos);
CREATE INDEX thread_subscriptions_room ON thread_subscriptions (room_id);

-- owner: homeserver/push/unifiedpush
CREATE TABLE up_messages (
	id       INTEGER PRIMARY KEY,
	msg_id   TEXT NOT NULL,
	topic_id INTEGER NOT NULL,
	phone_id INTEGER NOT NULL,
	ts       INTEGER NOT NULL,
	expires  INTEGER NOT NULL,
	body     BLOB NOT NULL
);
CREATE INDEX up_messages_expires ON up_messages (expires);
CREATE INDEX up_messages_phone ON up_messages (phone_id, id);
CREATE INDEX up_messages_topic ON up_messages (topic_id, id);

-- owner: homeserver/push/unifiedpush
CREATE TABLE up_phones (
	id          INTEGER PRIMARY KEY,
	user_id     TEXT NOT NULL,
	device_id   TEXT NOT NULL,        -- the Matrix device with which it ends; '': none
	name        TEXT NOT NULL,
	secret_hash BLOB NOT NULL UNIQUE, -- SHA-256
	created     INTEGER NOT NULL,
	last_seen   INTEGER NOT NULL      -- last connection, exact to the hour; 0: never
);
CREATE INDEX up_phones_user ON up_phones (user_id);

-- owner: homeserver/push/unifiedpush
CREATE TABLE up_topics (
	id        INTEGER PRIMARY KEY,
	topic     TEXT NOT NULL UNIQUE,
	user_id   TEXT NOT NULL,
	phone_id  INTEGER NOT NULL, -- 0: it has ended
	last_seen INTEGER NOT NULL  -- last subscription, exact to the hour, or when it ended
);
CREATE INDEX up_topics_phone ON up_topics (phone_id);

-- owner: homeserver/userdata
CREATE TABLE user_account_data (
	user_id TEXT NOT NULL,
	room_id TEXT NOT NULL,
	type    TEXT NOT NULL,
	content TEXT NOT NULL, -- JSON object
	pos     INTEGER NOT NULL,
	PRIMARY KEY (user_id, room_id, type)
) WITHOUT ROWID;
CREATE INDEX user_account_data_pos ON user_account_data (user_id, pos);
CREATE INDEX user_account_data_room ON user_account_data (room_id) WHERE room_id <> '';

-- owner: homeserver/userdata
CREATE TABLE user_filters (
	user_id   TEXT NOT NULL,
	filter_id TEXT NOT NULL, -- from a hash of the content: equal filters have one ID
	filter    TEXT NOT NULL, -- JSON object
	PRIMARY KEY (user_id, filter_id)
) WITHOUT ROWID;

-- owner: homeserver/ephemeral
CREATE TABLE user_presence (
	user_id    TEXT PRIMARY KEY,
	state      TEXT NOT NULL, -- online, unavailable or offline
	status_msg TEXT NOT NULL,
	active     INTEGER NOT NULL, -- ms; 0: never
	pos        INTEGER NOT NULL  -- of the last change that others see
) WITHOUT ROWID;

-- owner: homeserver/userdata
CREATE TABLE user_profiles (
	user_id     TEXT PRIMARY KEY,
	displayname TEXT NOT NULL DEFAULT '',
	avatar_url  TEXT NOT NULL DEFAULT '',
	fields      TEXT NOT NULL DEFAULT '{}',
	hidden      INTEGER NOT NULL DEFAULT 0 -- 1: not found by the user directory (deactivated)
) WITHOUT ROWID;

-- owner: homeserver/userdata
CREATE TABLE user_push_rules (
	user_id TEXT PRIMARY KEY,
	changes TEXT NOT NULL, -- JSON
	pos     INTEGER NOT NULL
) WITHOUT ROWID;
