-- The list of an account's keys, newest first, straight from the index: no sort, and no deleted keys to pass over.
CREATE INDEX IF NOT EXISTS api_keys_live_by_account
    ON api_keys (account_id, created_at DESC, id DESC)
    WHERE deleted_at IS NULL;
