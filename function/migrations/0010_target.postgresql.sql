-- A rule may have several targets, and each has its own fate. No grant on the table is lost, and no row is written anew
-- but those that no rule wanted: a large ledger takes seconds.
ALTER TABLE servicenow.delivery ADD COLUMN target TEXT NOT NULL DEFAULT 'ticket';  -- its kind
ALTER TABLE servicenow.delivery ALTER COLUMN target SET DEFAULT '';
UPDATE servicenow.delivery SET target = '' WHERE rule = '';  -- no rule wanted the event
-- PostgreSQL gave the second table of this name, that of migration 0006, a key with a number at its end.
ALTER TABLE servicenow.delivery DROP CONSTRAINT IF EXISTS delivery_pkey;
ALTER TABLE servicenow.delivery DROP CONSTRAINT IF EXISTS delivery_pkey1;
ALTER TABLE servicenow.delivery ADD PRIMARY KEY (event, rule, target, key, content);
