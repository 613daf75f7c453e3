-- How many live keys an account may have. The operator says otherwise where that is too few, or too many.
ALTER TABLE accounts ADD COLUMN key_limit INTEGER NOT NULL DEFAULT 1000 CHECK (key_limit >= 0);

-- How many it has. To count them anew for each key would take the longer the more there are. Triggers keep it, so that it is right
-- also where other programs write.
CREATE TABLE key_counts (
    account_id BLOB NOT NULL PRIMARY KEY,
    live INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER count_new_key AFTER INSERT ON api_keys WHEN NEW.deleted_at IS NULL BEGIN
    INSERT INTO key_counts (account_id, live) VALUES (NEW.account_id, 1)
    ON CONFLICT (account_id) DO UPDATE SET live = live + 1;
END;

CREATE TRIGGER count_gone_key AFTER DELETE ON api_keys WHEN OLD.deleted_at IS NULL BEGIN
    UPDATE key_counts SET live = live - 1 WHERE account_id = OLD.account_id;
END;

CREATE TRIGGER count_changed_key AFTER UPDATE OF account_id, deleted_at ON api_keys
WHEN OLD.account_id IS NOT NEW.account_id OR (OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL) BEGIN
    UPDATE key_counts SET live = live - 1 WHERE account_id = OLD.account_id AND OLD.deleted_at IS NULL;
    INSERT INTO key_counts (account_id, live) SELECT NEW.account_id, 1 WHERE NEW.deleted_at IS NULL
    ON CONFLICT (account_id) DO UPDATE SET live = live + 1;
END;

INSERT INTO key_counts (account_id, live)
SELECT account_id, count(*) FROM api_keys WHERE deleted_at IS NULL GROUP BY account_id;

-- Who has many has them for a reason.
UPDATE accounts SET key_limit = min(2 * live, 1000000000)
FROM key_counts WHERE account_id = accounts.id AND 2 * live > key_limit;
