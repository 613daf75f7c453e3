//! A database as the reference implementation leaves it.

use super::TestDatabase;

/// The reference's tables as its own migrations leave them, and some rows.
const REFERENCE: &str = "
    CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
    INSERT INTO alembic_version VALUES ('0a1b2c3d4e5f');

    CREATE TYPE account_status AS ENUM ('active', 'suspended');
    CREATE TYPE api_key_status AS ENUM ('active', 'revoked');
    CREATE TABLE accounts (
        name varchar NOT NULL,
        slug varchar NOT NULL,
        status account_status DEFAULT 'active' NOT NULL,
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        deleted_at timestamptz
    );
    CREATE UNIQUE INDEX ix_accounts_name ON accounts (name);
    CREATE UNIQUE INDEX ix_accounts_slug ON accounts (slug);
    CREATE TABLE users (
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        account_id uuid NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
        email varchar NOT NULL
    );
    CREATE TABLE api_keys (
        account_id uuid NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
        name varchar NOT NULL,
        key_hash varchar NOT NULL,
        key_prefix varchar NOT NULL,
        status api_key_status DEFAULT 'active' NOT NULL,
        last_used_at timestamptz,
        expires_at timestamptz,
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        created_at timestamptz DEFAULT now() NOT NULL,
        updated_at timestamptz DEFAULT now() NOT NULL,
        deleted_at timestamptz
    );
    CREATE UNIQUE INDEX ix_api_keys_key_prefix ON api_keys (key_prefix);
    CREATE INDEX ix_api_keys_account_id ON api_keys (account_id);

    INSERT INTO accounts (id, name, slug, status, created_at, updated_at, deleted_at) VALUES
        ('10000000-0000-4000-8000-000000000000', E'  Odd\\n näme ', 'Odd_Slug', 'active',
            '2025-01-01 00:00:00.123456+00', '2025-01-02 00:00:00+00', NULL),
        ('20000000-0000-4000-8000-000000000000', 'Gone', 'gone', 'suspended',
            '2025-01-01 00:00:00+00', '2025-01-03 00:00:00+00', '2025-01-03 00:00:00+00'),
        ('30000000-0000-1000-8000-000000000000', '', 'x', 'suspended',
            '2025-01-01 00:00:00+00', '2025-01-01 00:00:00+00', NULL);
    INSERT INTO users (account_id, email) VALUES ('10000000-0000-4000-8000-000000000000', 'a@b.c');
    -- The hash is hmac.new(secret, key, sha256).hexdigest(), made by Python.
    INSERT INTO api_keys (id, account_id, name, key_hash, key_prefix, status, last_used_at, expires_at,
        created_at, updated_at, deleted_at) VALUES
        ('a0000000-0000-4000-8000-000000000000', '10000000-0000-4000-8000-000000000000', E'\\tName ',
            'd4496a404581584107f64d6aea965e6e628ed8e04a980f78e454fcf872d8bd2e', 'ldr_AAECAwQFBg', 'active', '2025-02-01 00:00:00.000001+00', NULL,
            '2025-01-01 00:00:00+00', '2025-02-01 00:00:00.000001+00', NULL),
        ('b0000000-0000-4000-8000-000000000000', '10000000-0000-4000-8000-000000000000', '',
            'no hash', 'ldr_short', 'revoked', NULL, '2025-06-01 00:00:00+00',
            '2025-01-02 00:00:00+00', '2025-01-02 00:00:00+00', NULL),
        ('c0000000-0000-4000-8000-000000000000', '20000000-0000-4000-8000-000000000000', 'Deleted',
            'no hash', 'ldr_deleted', 'active', NULL, NULL,
            '2025-01-03 00:00:00+00', '2025-01-03 00:00:00+00', '2025-01-04 00:00:00+00');
";

/// The key of one of its rows, whose hash is that under [`REFERENCE_SECRET`], as the reference computes it.
pub const REFERENCE_KEY: &str = "ldr_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// The secret of that deployment.
pub const REFERENCE_SECRET: &str = "the reference's secret, 32 bytes or more";

/// A database of a test's own with the reference's tables and some rows, odd ones among them.
pub async fn reference() -> TestDatabase {
    let database = TestDatabase::create_empty().await;
    let made = database.client().await.batch_execute(REFERENCE).await;
    made.expect("the reference's tables");
    database
}
