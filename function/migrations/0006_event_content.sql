-- An event is known by its id and its content: an id that is used again is another event, and has a record of its own.
ALTER TABLE servicenow.delivery RENAME TO delivery_by_id;
CREATE TABLE servicenow.delivery (
    event        TEXT NOT NULL,
    rule         TEXT NOT NULL,                  -- '' where no rule wants the event
    key          TEXT NOT NULL,                  -- '' where it could not be told
    content      TEXT NOT NULL,                  -- digest of source, operation and images
    source       TEXT NOT NULL,
    status       TEXT NOT NULL,                  -- waiting, done, dead
    outcome      TEXT NOT NULL DEFAULT '',       -- the status that was last answered
    attempts     INTEGER NOT NULL DEFAULT 0,
    first_seen   DOUBLE PRECISION NOT NULL,
    last_at      DOUBLE PRECISION NOT NULL,
    retry_at     DOUBLE PRECISION,
    reason       TEXT NOT NULL DEFAULT '',
    hint         TEXT NOT NULL DEFAULT '',
    words        TEXT NOT NULL DEFAULT '',       -- ServiceNow's own, cut short
    ticket       TEXT NOT NULL DEFAULT '',       -- the ticket's number
    duration     DOUBLE PRECISION NOT NULL DEFAULT 0,  -- seconds, of the last attempt
    digest       TEXT NOT NULL DEFAULT '',       -- rules and settings of the last attempt
    fingerprint  TEXT NOT NULL DEFAULT '',       -- the alert that it belongs to, if one
    counted      BOOLEAN NOT NULL DEFAULT FALSE, -- its step is in the trail
    body         TEXT NOT NULL DEFAULT '',       -- the event itself, while it is not done
    PRIMARY KEY (event, rule, key, content)
);
INSERT INTO servicenow.delivery
    (event, rule, key, content, source, status, outcome, attempts, first_seen, last_at, retry_at, reason, hint, words,
     ticket, duration, digest, fingerprint, counted, body)
SELECT event, rule, key, content, source, status, outcome, attempts, first_seen, last_at, retry_at, reason, hint, words,
       ticket, duration, digest, fingerprint, counted, body
FROM servicenow.delivery_by_id;
DROP TABLE servicenow.delivery_by_id;
CREATE INDEX delivery_status ON servicenow.delivery (status, first_seen);
CREATE INDEX delivery_fingerprint ON servicenow.delivery (fingerprint, status);

-- Fields of the ticket that were left empty because nobody goes by the name that the row gives: field -> name (JSON).
ALTER TABLE servicenow.ticket ADD COLUMN left_empty TEXT NOT NULL DEFAULT '{}';
