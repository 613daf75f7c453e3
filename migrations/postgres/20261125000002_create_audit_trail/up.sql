-- The audit trail: what was changed, by whom, and what shows whether somebody tampered with it. `docs/configuration.md` says
-- which rights a server has to these tables: it may add entries, and never change or take away one.

-- A chain is an account's, or that of the deployment, which has the nil UUID. There is no foreign key: what the trail says
-- of an account outlives it. `before` and `after` are text and not JSON, because their bytes are what is hashed.
CREATE TABLE audit_entries (
    chain uuid NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    action varchar NOT NULL,
    -- key, tool or server
    actor varchar NOT NULL,
    actor_key_id uuid,
    actor_account_id uuid,
    request_id varchar,
    client varchar,
    key_id uuid,
    before text,
    after text,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (chain, seq)
);

-- The list over all chains, newest first.
CREATE INDEX audit_entries_by_time ON audit_entries (at DESC, chain DESC, seq DESC);

-- The end of each chain. It is written with every change, and no index needs to know: with room left in each page the new
-- version of a row finds a place beside the old one.
CREATE TABLE audit_heads (
    chain uuid PRIMARY KEY,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    code bytea NOT NULL
) WITH (fillfactor = 50);

-- What stands for the beginning of a chain that was pruned.
CREATE TABLE audit_checkpoints (
    chain uuid PRIMARY KEY,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    pruned_at timestamptz NOT NULL,
    code bytea NOT NULL
);

-- The key under which the trail is sealed, encrypted under the secret of the row. Null where a program registered the secret
-- that knows of no trail.
ALTER TABLE peppers ADD COLUMN IF NOT EXISTS audit_key varchar;
