-- What was changed, by whom, and by what it shows whether that was tampered with: each account has a chain of entries, and
-- the deployment has one, whose id is 16 bytes of zero. None of it refers to what it is about, which may be gone before it.

-- `before` and `after` are texts, not JSON: their bytes are what the hash is of. The rows lie in the order in which they were
-- written, so that those of a commit are side by side, whatever chains they belong to: a table that lay in the order of its
-- chains would have a page written anew for each. For the same reason time goes upwards in the index.
CREATE TABLE audit_entries (
    chain BLOB NOT NULL CHECK (length(chain) = 16),
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    action TEXT NOT NULL,
    actor TEXT NOT NULL CHECK (actor IN ('key', 'tool', 'server')),
    actor_key_id BLOB,
    actor_account_id BLOB,
    request_id TEXT,
    client TEXT,
    key_id BLOB,
    before TEXT,
    after TEXT,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (chain, seq)
) STRICT;

-- The list of all chains, newest first, straight from the index, which is read backwards.
CREATE INDEX audit_entries_by_time ON audit_entries (at, chain, seq);

-- The end of each chain, by which it is noticed that its last entries are missing.
CREATE TABLE audit_heads (
    chain BLOB NOT NULL PRIMARY KEY CHECK (length(chain) = 16),
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    code BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Up to where the beginning of a chain was pruned.
CREATE TABLE audit_checkpoints (
    chain BLOB NOT NULL PRIMARY KEY CHECK (length(chain) = 16),
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    pruned_at INTEGER NOT NULL,
    code BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The key that the trail is sealed under, encrypted under each secret. Null where a program of before registered the secret.
ALTER TABLE peppers ADD COLUMN audit_key TEXT;
