-- FORGETS THE AUDIT TRAIL, AND THE KEY THAT IT IS SEALED UNDER: export it first, if it is needed.
ALTER TABLE peppers DROP COLUMN audit_key;
DROP TABLE audit_checkpoints;
DROP TABLE audit_heads;
DROP TABLE audit_entries;
