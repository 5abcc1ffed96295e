-- Columns and states by the names that the code has for them. Views of an app's own go on reading the ticket's columns:
-- none that they read is renamed.
ALTER TABLE servicenow.ticket RENAME COLUMN asked TO last_sent;
ALTER TABLE servicenow.ticket RENAME COLUMN sending TO pending_write;
ALTER TABLE servicenow.ticket RENAME COLUMN late_writes TO stale_writes;
ALTER TABLE servicenow.ticket RENAME COLUMN late_seen TO stale_writes_seen;
ALTER TABLE servicenow.ticket RENAME COLUMN late_fields TO stale_fields;
ALTER TABLE servicenow.ticket RENAME COLUMN vanished_until TO abandoned_lease_until;
ALTER TABLE servicenow.delivery RENAME COLUMN words TO remote_message;
ALTER TABLE servicenow.hold RENAME COLUMN words TO remote_message;
ALTER TABLE servicenow.hold RENAME COLUMN proven_at TO verified_at;
ALTER TABLE servicenow.configuration RENAME COLUMN stamp TO version;
ALTER TABLE servicenow.instance RENAME TO table_traits;
ALTER TABLE servicenow.trial RENAME TO login_attempt;
UPDATE servicenow.delivery SET outcome = 'withdrawn' WHERE outcome = 'forgiven';
-- pending (no mail has told of it), notified, recovered (a mail is to tell of that), closed. What an older version, while it
-- still runs, does not find under its name, it cannot write in its words.
UPDATE servicenow.alert SET episode = CASE episode
    WHEN 'quiet' THEN 'pending' WHEN 'told' THEN 'notified' WHEN 'over' THEN 'recovered' ELSE episode END;
ALTER TABLE servicenow.alert RENAME COLUMN episode TO state;
