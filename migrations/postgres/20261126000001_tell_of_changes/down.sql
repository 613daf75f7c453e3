-- Nobody is told of changes any more: a server that relies on it has to end first. How the servers are doing is forgotten; they
-- say it again.
DROP TABLE IF EXISTS server_nodes;
DROP TRIGGER IF EXISTS leadr_auth_accounts_truncated ON accounts;
DROP TRIGGER IF EXISTS leadr_auth_account_changed ON accounts;
DROP TRIGGER IF EXISTS leadr_auth_account_went ON accounts;
DROP TRIGGER IF EXISTS leadr_auth_keys_truncated ON api_keys;
DROP TRIGGER IF EXISTS leadr_auth_key_changed ON api_keys;
DROP TRIGGER IF EXISTS leadr_auth_key_went ON api_keys;
DROP TRIGGER IF EXISTS leadr_auth_key_came ON api_keys;
DROP FUNCTION IF EXISTS leadr_auth_tell_of_everything();
DROP FUNCTION IF EXISTS leadr_auth_tell_of_account();
DROP FUNCTION IF EXISTS leadr_auth_tell_of_key();
