DROP INDEX IF EXISTS api_keys_live_by_account;
