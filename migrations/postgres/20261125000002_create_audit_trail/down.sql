-- FORGETS THE WHOLE AUDIT TRAIL, and the key by which a copy of it could be checked. Export it first.
ALTER TABLE peppers DROP COLUMN IF EXISTS audit_key;
DROP TABLE IF EXISTS audit_checkpoints;
DROP TABLE IF EXISTS audit_heads;
DROP TABLE IF EXISTS audit_entries;
