-- The recipients that the mail server refused for the time being, when it took the mail for others.
ALTER TABLE servicenow.alert ADD COLUMN owed TEXT NOT NULL DEFAULT '';  -- JSON: to, tries, count, recovered
ALTER TABLE servicenow.alert ADD COLUMN owed_at DOUBLE PRECISION;       -- when it is sent to them again
