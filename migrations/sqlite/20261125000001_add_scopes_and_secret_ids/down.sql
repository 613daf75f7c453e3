-- FORGETS THE SCOPES, SO THAT EVERY KEY MAY DO ALL AGAIN, and under which secret a key is hashed: a program of before knows
-- the one with the id 'default' only.
ALTER TABLE peppers DROP COLUMN dropped_at;
ALTER TABLE api_keys DROP COLUMN pepper_id;
ALTER TABLE api_keys DROP COLUMN scopes;
