-- A rule may have several targets, and each has its own fate. SQLite changes a primary key in a new table only.
-- Else SQLite writes the name of the old table into every view of this one.
PRAGMA legacy_alter_table = ON;
ALTER TABLE servicenow.delivery RENAME TO delivery_by_rule;
CREATE TABLE servicenow.delivery (
    event          TEXT NOT NULL,
    rule           TEXT NOT NULL,                  -- '' where no rule wants the event
    target         TEXT NOT NULL DEFAULT '',       -- its kind; '' where no rule wants the event
    key            TEXT NOT NULL,                  -- '' where it could not be told
    content        TEXT NOT NULL,                  -- digest of source, operation and images
    source         TEXT NOT NULL,
    status         TEXT NOT NULL,                  -- waiting, done, dead
    outcome        TEXT NOT NULL DEFAULT '',       -- the status that was last answered
    attempts       INTEGER NOT NULL DEFAULT 0,
    first_seen     DOUBLE PRECISION NOT NULL,
    last_at        DOUBLE PRECISION NOT NULL,
    retry_at       DOUBLE PRECISION,
    reason         TEXT NOT NULL DEFAULT '',
    hint           TEXT NOT NULL DEFAULT '',
    remote_message TEXT NOT NULL DEFAULT '',       -- what the other system said, cut short
    ticket         TEXT NOT NULL DEFAULT '',       -- the ticket's number
    duration       DOUBLE PRECISION NOT NULL DEFAULT 0,  -- seconds, of the last attempt
    digest         TEXT NOT NULL DEFAULT '',       -- rules and settings of the last attempt
    fingerprint    TEXT NOT NULL DEFAULT '',       -- the alert that it belongs to, if one
    counted        BOOLEAN NOT NULL DEFAULT FALSE, -- its step is in the trail
    body           TEXT NOT NULL DEFAULT '',       -- the event itself, while it is not done
    PRIMARY KEY (event, rule, target, key, content)
);
INSERT INTO servicenow.delivery
    (event, rule, target, key, content, source, status, outcome, attempts, first_seen, last_at, retry_at, reason, hint,
     remote_message, ticket, duration, digest, fingerprint, counted, body)
SELECT event, rule, CASE WHEN rule = '' THEN '' ELSE 'ticket' END, key, content, source, status, outcome, attempts,
       first_seen, last_at, retry_at, reason, hint, remote_message, ticket, duration, digest, fingerprint, counted, body
FROM servicenow.delivery_by_rule;
DROP TABLE servicenow.delivery_by_rule;
PRAGMA legacy_alter_table = OFF;
CREATE INDEX delivery_status ON servicenow.delivery (status, first_seen);
CREATE INDEX delivery_fingerprint ON servicenow.delivery (fingerprint, status);
CREATE INDEX delivery_last_at ON servicenow.delivery (last_at);
