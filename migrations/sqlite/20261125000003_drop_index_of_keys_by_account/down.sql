CREATE INDEX ix_api_keys_account_id ON api_keys (account_id);
