-- Views of the app's own may read this table (`python -m function setup hasura`): PostgreSQL lets no migration drop or
-- retype a column that they read. Columns are added.
ALTER TABLE servicenow.ticket ADD COLUMN mod_count INTEGER NOT NULL DEFAULT 0;  -- sys_mod_count, as last returned
