-- A rule may have several targets, and each has its own fate. No grant on the table is lost.
ALTER TABLE servicenow.delivery ADD COLUMN target TEXT NOT NULL DEFAULT '';  -- its kind; '' where no rule wants the event
UPDATE servicenow.delivery SET target = 'ticket' WHERE rule <> '';
-- PostgreSQL gave the second table of this name, that of migration 0006, a key with a number at its end.
ALTER TABLE servicenow.delivery DROP CONSTRAINT IF EXISTS delivery_pkey;
ALTER TABLE servicenow.delivery DROP CONSTRAINT IF EXISTS delivery_pkey1;
ALTER TABLE servicenow.delivery ADD PRIMARY KEY (event, rule, target, key, content);
