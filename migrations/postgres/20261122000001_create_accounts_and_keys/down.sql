-- DROPS THE TABLES WITH ALL ACCOUNTS AND KEYS, also those that the reference implementation wrote: going back behind the
-- first migration means having nothing.
DROP TABLE IF EXISTS api_keys;
DROP TABLE IF EXISTS accounts;
DROP TYPE IF EXISTS api_key_status;
DROP TYPE IF EXISTS account_status;
