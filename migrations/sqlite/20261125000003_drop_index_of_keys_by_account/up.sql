-- No query goes by it: lists and counts of an account's keys go by the index of its live ones. It cost each new key a page of
-- the log. (In PostgreSQL it stays, because the reference implementation has it.)
DROP INDEX ix_api_keys_account_id;
