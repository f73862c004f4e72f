-- Whether a SAML provider was ever heard of from here: only one that was can be down.
ALTER TABLE id_upstreams ADD COLUMN heard INTEGER NOT NULL DEFAULT 0; -- when it answered first since it was set; 0: never, or one of OpenID Connect
