DROP INDEX accounts_live_by_name;
DROP INDEX accounts_live_by_creation;
DROP INDEX api_keys_live_by_name;
