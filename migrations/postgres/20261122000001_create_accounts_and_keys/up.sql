-- Makes the tables on an empty database, and adopts those that the reference implementation made, keeping every row.
-- So each statement does nothing where its work is done already.

DO $$
BEGIN
    CREATE TYPE account_status AS ENUM ('active', 'suspended');
EXCEPTION WHEN duplicate_object THEN NULL;
END
$$;

DO $$
BEGIN
    CREATE TYPE api_key_status AS ENUM ('active', 'revoked');
EXCEPTION WHEN duplicate_object THEN NULL;
END
$$;

CREATE TABLE IF NOT EXISTS accounts (
    id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
    name varchar NOT NULL,
    slug varchar NOT NULL,
    status account_status DEFAULT 'active' NOT NULL,
    is_operator boolean DEFAULT false NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    deleted_at timestamptz
);

CREATE TABLE IF NOT EXISTS api_keys (
    id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name varchar NOT NULL,
    key_hash varchar NOT NULL,
    key_prefix varchar NOT NULL,
    status api_key_status DEFAULT 'active' NOT NULL,
    last_used_at timestamptz,
    expires_at timestamptz,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    deleted_at timestamptz
);

-- Early versions of the reference had no soft deletion.
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS deleted_at timestamptz;
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS deleted_at timestamptz;

-- Ours alone. It has a default, so that the reference can go on writing rows during a switch.
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS is_operator boolean DEFAULT false NOT NULL;

CREATE UNIQUE INDEX IF NOT EXISTS ix_api_keys_key_prefix ON api_keys (key_prefix);
CREATE INDEX IF NOT EXISTS ix_api_keys_account_id ON api_keys (account_id);

-- Names and slugs are unique among live accounts, so that a deleted account's can be used again. The name's index comes
-- first: where an insert violates both, PostgreSQL reports the older index, and we promise to name the name.
CREATE UNIQUE INDEX IF NOT EXISTS accounts_live_name_key ON accounts (name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS accounts_live_slug_key ON accounts (slug) WHERE deleted_at IS NULL;

-- The reference's own uniqueness goes over all rows, deleted ones included. It is found by what it is, since its name
-- (and whether it is an index or a constraint) differs between versions.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT i.indexrelid::regclass AS index_name, c.conname AS constraint_name
        FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype = 'u'
        WHERE i.indrelid = 'accounts'::regclass
            AND i.indisunique
            AND NOT i.indisprimary
            AND i.indnkeyatts = 1
            AND i.indpred IS NULL
            AND i.indexprs IS NULL
            AND a.attname IN ('name', 'slug')
    LOOP
        IF found.constraint_name IS NULL THEN
            EXECUTE format('DROP INDEX %s', found.index_name);
        ELSE
            EXECUTE format('ALTER TABLE accounts DROP CONSTRAINT %I', found.constraint_name);
        END IF;
    END LOOP;
END
$$;
