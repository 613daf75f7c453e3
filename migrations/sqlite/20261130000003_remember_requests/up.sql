-- Requests that are to be done once, however often they are sent, and what came of them. A caller is known by its key; what it sent a
-- day ago goes when it sends another.
CREATE TABLE idempotent_requests (
    caller BLOB NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    made_at INTEGER NOT NULL,
    -- The key or the account that was made.
    record_id BLOB NOT NULL,
    PRIMARY KEY (caller, idempotency_key)
) STRICT, WITHOUT ROWID;
