-- What a key may be used for: scopes with a space between them. Null is all that its account may, which is what every key
-- is that was issued before, or that a program issues which knows nothing of scopes; an empty text is nothing at all.
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS scopes varchar;

-- Which secret a key's hash is under: an id in peppers. Those of before, and those that a program writes which knows of one
-- secret only, are under the one whose id that program registers it with. A default that is a constant is not written into
-- the rows, so the table is locked for a moment, however large it is. There is no foreign key: keys may be imported before
-- their secret is registered.
ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS pepper_id varchar NOT NULL DEFAULT 'default';

-- When a secret was given up. Its row stays, so that no key is stored under it again.
ALTER TABLE peppers ADD COLUMN IF NOT EXISTS dropped_at timestamptz;
