DROP TRIGGER count_changed_key;
DROP TRIGGER count_gone_key;
DROP TRIGGER count_new_key;
DROP TABLE key_counts;
ALTER TABLE accounts DROP COLUMN key_limit;
