-- Lists sorted by name, page by page, straight from the index. `C` is the order of code points, which every store has, and the
-- only one that does not change with a library of the operating system.
CREATE INDEX api_keys_live_by_name ON api_keys (account_id, name COLLATE "C", id) WHERE deleted_at IS NULL;

-- The list of accounts, by either order.
CREATE INDEX accounts_live_by_creation ON accounts (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX accounts_live_by_name ON accounts (name COLLATE "C", id) WHERE deleted_at IS NULL;
