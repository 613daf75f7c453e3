-- Lists sorted by name, page by page, straight from the index.
CREATE INDEX api_keys_live_by_name ON api_keys (account_id, name, id) WHERE deleted_at IS NULL;

-- The list of accounts, by either order.
CREATE INDEX accounts_live_by_creation ON accounts (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX accounts_live_by_name ON accounts (name, id) WHERE deleted_at IS NULL;
