-- What a key may be used for: scopes with a space between them. Null is all, as every key had it that was issued before; a
-- text of no scopes is none.
ALTER TABLE api_keys ADD COLUMN scopes TEXT;

-- Under which secret the hash is. Before there were several there was one, registered under this id. It is no reference to
-- peppers: a key that is moved in may come before its secret is registered.
ALTER TABLE api_keys ADD COLUMN pepper_id TEXT NOT NULL DEFAULT 'default';

-- When a secret was given up. Its row stays, so that no key is stored under it again.
ALTER TABLE peppers ADD COLUMN dropped_at INTEGER;
