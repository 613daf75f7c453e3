-- Tells everybody who listens on the channel leadr_auth of which keys and accounts something was changed that verification
-- looks at: whoever changes it, by whichever program. It is told when the change is committed, and not at all where it is not.
--
-- `crates/postgres/src/change_feed.rs` has the form of what is told. A program that knows nothing of it is not disturbed; one
-- that reads it takes what it does not know for `everything`.
--
-- That a key was used is no change. So the triggers name the columns that they are for, and look whether one of them is another
-- than before: a program may write whole rows. A column that is named here can be neither dropped nor given another type
-- before its trigger is made anew.

CREATE FUNCTION leadr_auth_tell_of_key() RETURNS trigger
    LANGUAGE plpgsql
    -- Whoever changes a row may have another search path, in which other things have these names.
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    prefixes text[];
    prefix text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        prefixes := ARRAY[NEW.key_prefix];
    ELSIF TG_OP = 'DELETE' OR OLD.key_prefix = NEW.key_prefix THEN
        prefixes := ARRAY[OLD.key_prefix];
    ELSE
        prefixes := ARRAY[OLD.key_prefix, NEW.key_prefix];
    END IF;
    FOREACH prefix IN ARRAY prefixes LOOP
        -- In a row that another program wrote there may be anything, and a text that is too long to be told would keep the
        -- row from being changed.
        PERFORM pg_notify(
            'leadr_auth',
            CASE WHEN prefix ~ '^ldr_[A-Za-z0-9_-]{1,60}$' THEN 'key ' || prefix ELSE 'everything' END
        );
    END LOOP;
    RETURN NULL;
END
$$;

CREATE FUNCTION leadr_auth_tell_of_account() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('leadr_auth', 'account ' || OLD.id);
    IF TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
        PERFORM pg_notify('leadr_auth', 'account ' || NEW.id);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION leadr_auth_tell_of_everything() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('leadr_auth', 'everything');
    RETURN NULL;
END
$$;

-- A server that issues a key of random bytes says so for that transaction: nobody can have asked for it before, and to tell
-- of it would have the commits of all who tell something come one after another.
CREATE TRIGGER leadr_auth_key_came
    AFTER INSERT ON api_keys
    FOR EACH ROW WHEN (current_setting('leadr_auth.fresh_key', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION leadr_auth_tell_of_key();

CREATE TRIGGER leadr_auth_key_went
    AFTER DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION leadr_auth_tell_of_key();

CREATE TRIGGER leadr_auth_key_changed
    AFTER UPDATE OF id, account_id, name, key_hash, key_prefix, status, scopes, pepper_id, expires_at, deleted_at ON api_keys
    FOR EACH ROW WHEN (
        OLD.id IS DISTINCT FROM NEW.id
        OR OLD.account_id IS DISTINCT FROM NEW.account_id
        OR OLD.name IS DISTINCT FROM NEW.name
        OR OLD.key_hash IS DISTINCT FROM NEW.key_hash
        OR OLD.key_prefix IS DISTINCT FROM NEW.key_prefix
        OR OLD.status IS DISTINCT FROM NEW.status
        OR OLD.scopes IS DISTINCT FROM NEW.scopes
        OR OLD.pepper_id IS DISTINCT FROM NEW.pepper_id
        OR OLD.expires_at IS DISTINCT FROM NEW.expires_at
        OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at
    )
    EXECUTE FUNCTION leadr_auth_tell_of_key();

CREATE TRIGGER leadr_auth_keys_truncated
    AFTER TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION leadr_auth_tell_of_everything();

-- A new account has no key yet, so nobody can have asked for one.
CREATE TRIGGER leadr_auth_account_went
    AFTER DELETE ON accounts
    FOR EACH ROW EXECUTE FUNCTION leadr_auth_tell_of_account();

CREATE TRIGGER leadr_auth_account_changed
    AFTER UPDATE OF id, name, slug, status, is_operator, deleted_at ON accounts
    FOR EACH ROW WHEN (
        OLD.id IS DISTINCT FROM NEW.id
        OR OLD.name IS DISTINCT FROM NEW.name
        OR OLD.slug IS DISTINCT FROM NEW.slug
        OR OLD.status IS DISTINCT FROM NEW.status
        OR OLD.is_operator IS DISTINCT FROM NEW.is_operator
        OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at
    )
    EXECUTE FUNCTION leadr_auth_tell_of_account();

CREATE TRIGGER leadr_auth_accounts_truncated
    AFTER TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION leadr_auth_tell_of_everything();

-- Also what replication writes, or a program that has switched triggers off for its session, is a change.
ALTER TABLE api_keys
    ENABLE ALWAYS TRIGGER leadr_auth_key_came,
    ENABLE ALWAYS TRIGGER leadr_auth_key_went,
    ENABLE ALWAYS TRIGGER leadr_auth_key_changed,
    ENABLE ALWAYS TRIGGER leadr_auth_keys_truncated;
ALTER TABLE accounts
    ENABLE ALWAYS TRIGGER leadr_auth_account_went,
    ENABLE ALWAYS TRIGGER leadr_auth_account_changed,
    ENABLE ALWAYS TRIGGER leadr_auth_accounts_truncated;

-- How each server is doing, by its own account. It is written once or twice a second by each, and no index needs to know: with
-- room left in each page the new version of a row finds a place beside the old one. Times that are no moment are microseconds.
CREATE TABLE server_nodes (
    id uuid PRIMARY KEY,
    name varchar NOT NULL,
    version varchar NOT NULL,
    tick bigint NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    patience bigint NOT NULL,
    lease_age bigint,
    lag bigint
) WITH (fillfactor = 50);
