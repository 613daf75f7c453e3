-- By which server secret the stored keys are hashed: never the secret, but a value that recognises it. Keyed by an id, of
-- which there is one for now, so that several secrets can be told apart later.
CREATE TABLE IF NOT EXISTS peppers (
    id varchar PRIMARY KEY,
    check_value varchar NOT NULL
);
