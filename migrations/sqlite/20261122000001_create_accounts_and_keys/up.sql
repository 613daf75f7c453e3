-- The same tables as in PostgreSQL. What SQLite has no type for is kept in one that it has, and checked: an id is the 16
-- bytes of a UUID, so that ids have the same order in both; an instant is microseconds since 1970; a flag is 0 or 1.

CREATE TABLE accounts (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    is_operator INTEGER NOT NULL DEFAULT 0 CHECK (is_operator IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

CREATE TABLE api_keys (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    account_id BLOB NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    key_prefix TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    last_used_at INTEGER,
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

-- By which a process with another secret than the one that the keys are hashed under is noticed.
CREATE TABLE peppers (
    id TEXT NOT NULL PRIMARY KEY,
    check_value TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX ix_api_keys_key_prefix ON api_keys (key_prefix);
CREATE INDEX ix_api_keys_account_id ON api_keys (account_id);

-- Names and slugs are unique among live accounts, so that a deleted account's can be used again.
CREATE UNIQUE INDEX accounts_live_name_key ON accounts (name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX accounts_live_slug_key ON accounts (slug) WHERE deleted_at IS NULL;

-- The list of an account's keys, newest first, straight from the index: no sort, and no deleted keys to pass over.
CREATE INDEX api_keys_live_by_account
    ON api_keys (account_id, created_at DESC, id DESC)
    WHERE deleted_at IS NULL;
