-- Recording a use writes a new version of the row. Where the page has room for it, no index is touched and the old version is
-- cleared away by whoever comes next; on a full page, which is what the default leaves, each use is an insert into every index.
-- Pages that are there already are left as they are: rows leave them as they are used.
ALTER TABLE api_keys SET (fillfactor = 80);
