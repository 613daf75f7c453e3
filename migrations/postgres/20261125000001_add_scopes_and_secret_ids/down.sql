-- FORGETS WHAT KEYS ARE LIMITED TO AND WHICH SECRET EACH IS UNDER: every key has all rights of its account again, and a key
-- that is under another secret than the one called `default` works no more. Go back only where there are no such keys.
ALTER TABLE peppers DROP COLUMN IF EXISTS dropped_at;
ALTER TABLE api_keys DROP COLUMN IF EXISTS pepper_id;
ALTER TABLE api_keys DROP COLUMN IF EXISTS scopes;
