-- How many live keys an account may have. The operator says otherwise where that is too few, or too many.
ALTER TABLE accounts ADD COLUMN key_limit bigint NOT NULL DEFAULT 1000 CHECK (key_limit >= 0);

-- How many it has. To count them anew for each key would take the longer the more there are. Triggers keep it, so that it is right
-- also where other programs write; and whoever writes a key has the account's row here locked until that is committed, so that
-- of several who write at once each sees what the others did. The row is there from the account's beginning on.
CREATE TABLE key_counts (
    account_id uuid PRIMARY KEY,
    live bigint NOT NULL
) WITH (fillfactor = 50);

-- They do with the rights of whoever made them, because those who write keys may know nothing of the counts.
CREATE FUNCTION leadr_auth_count_new_keys() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO key_counts AS counted (account_id, live)
    SELECT account_id, count(*) FROM came WHERE deleted_at IS NULL GROUP BY account_id ORDER BY account_id
    ON CONFLICT (account_id) DO UPDATE SET live = counted.live + EXCLUDED.live;
    RETURN NULL;
END
$$;

CREATE FUNCTION leadr_auth_count_gone_keys() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE key_counts SET live = key_counts.live - gone.live
    FROM (SELECT account_id, count(*) AS live FROM went WHERE deleted_at IS NULL GROUP BY account_id) AS gone
    WHERE key_counts.account_id = gone.account_id;
    RETURN NULL;
END
$$;

CREATE FUNCTION leadr_auth_count_changed_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF OLD.deleted_at IS NULL THEN
        UPDATE key_counts SET live = live - 1 WHERE account_id = OLD.account_id;
    END IF;
    IF NEW.deleted_at IS NULL THEN
        INSERT INTO key_counts AS counted (account_id, live) VALUES (NEW.account_id, 1)
        ON CONFLICT (account_id) DO UPDATE SET live = counted.live + 1;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION leadr_auth_count_from_nothing() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO key_counts (account_id, live) SELECT id, 0 FROM came ORDER BY id ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE FUNCTION leadr_auth_count_no_keys() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE key_counts SET live = 0;
    RETURN NULL;
END
$$;

-- What they name is in the schema of these tables, and nowhere else: whoever fires them may have another search path.
DO $$
DECLARE
    counting text;
BEGIN
    FOREACH counting IN ARRAY ARRAY['new_keys', 'gone_keys', 'changed_key', 'no_keys', 'from_nothing'] LOOP
        EXECUTE format(
            'ALTER FUNCTION leadr_auth_count_%s() SET search_path = pg_catalog, %I, pg_temp', counting, current_schema()
        );
        -- Nor is anybody to fire them from a table of their own.
        EXECUTE format('REVOKE ALL ON FUNCTION leadr_auth_count_%s() FROM PUBLIC', counting);
    END LOOP;
END
$$;

CREATE TRIGGER leadr_auth_count_new_keys AFTER INSERT ON api_keys REFERENCING NEW TABLE AS came
    FOR EACH STATEMENT EXECUTE FUNCTION leadr_auth_count_new_keys();
CREATE TRIGGER leadr_auth_count_gone_keys AFTER DELETE ON api_keys REFERENCING OLD TABLE AS went
    FOR EACH STATEMENT EXECUTE FUNCTION leadr_auth_count_gone_keys();
CREATE TRIGGER leadr_auth_count_changed_key AFTER UPDATE OF account_id, deleted_at ON api_keys
    FOR EACH ROW WHEN (
        OLD.account_id IS DISTINCT FROM NEW.account_id OR (OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL)
    )
    EXECUTE FUNCTION leadr_auth_count_changed_key();
CREATE TRIGGER leadr_auth_count_no_keys AFTER TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION leadr_auth_count_no_keys();
CREATE TRIGGER leadr_auth_count_from_nothing AFTER INSERT ON accounts REFERENCING NEW TABLE AS came
    FOR EACH STATEMENT EXECUTE FUNCTION leadr_auth_count_from_nothing();

-- Also for what replication writes, which fires no others.
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER leadr_auth_count_new_keys;
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER leadr_auth_count_gone_keys;
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER leadr_auth_count_changed_key;
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER leadr_auth_count_no_keys;
ALTER TABLE accounts ENABLE ALWAYS TRIGGER leadr_auth_count_from_nothing;

-- Nobody writes keys from the first of these triggers on until this is over.
INSERT INTO key_counts (account_id, live)
SELECT accounts.id, count(api_keys.id) FROM accounts
LEFT JOIN api_keys ON api_keys.account_id = accounts.id AND api_keys.deleted_at IS NULL
GROUP BY accounts.id;

-- Who has many has them for a reason.
UPDATE accounts SET key_limit = least(2 * live, 1000000000)
FROM key_counts WHERE account_id = accounts.id AND 2 * live > key_limit;
