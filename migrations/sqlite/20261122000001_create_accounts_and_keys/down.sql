-- DROPS THE TABLES WITH ALL ACCOUNTS AND KEYS: going back behind the first migration means having nothing.
DROP TABLE peppers;
DROP TABLE api_keys;
DROP TABLE accounts;
