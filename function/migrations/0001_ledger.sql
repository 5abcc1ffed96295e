-- What was done, and what a row's events have said so far. Times are UNIX seconds by the database's clock.
-- The same text serves PostgreSQL and SQLite (where the schema's name is dropped).

-- One row per key of a rule: the ticket it has, and the trail of the row.
CREATE TABLE servicenow.ticket (
    instance        TEXT NOT NULL,               -- the ServiceNow instance's URL
    rule            TEXT NOT NULL,               -- the rule's id
    key             TEXT NOT NULL,
    "table"         TEXT NOT NULL DEFAULT '',
    generation      INTEGER NOT NULL DEFAULT 0,
    sys_id          TEXT NOT NULL DEFAULT '',    -- '' while there is no ticket
    number          TEXT NOT NULL DEFAULT '',
    state           TEXT NOT NULL DEFAULT '',    -- as ServiceNow last said
    known           TEXT NOT NULL DEFAULT '{}',  -- JSON: field -> value as ServiceNow last returned it
    asked           TEXT NOT NULL DEFAULT '{}',  -- JSON: field -> value as the rule last had it sent
    row_resolved    BOOLEAN NOT NULL DEFAULT FALSE,  -- what the row said of itself when the ticket was last settled
    trail           TEXT NOT NULL DEFAULT '',    -- JSON, see function/core/trail.py
    sending         TEXT NOT NULL DEFAULT '',    -- JSON: the write under way, if one is
    suspect_until   DOUBLE PRECISION,            -- a write in doubt may still commit until then
    suspect_fields  TEXT NOT NULL DEFAULT '[]',  -- JSON: the fields it wrote
    late_writes     INTEGER NOT NULL DEFAULT 0,  -- by holders that had lost their lease
    late_seen       INTEGER NOT NULL DEFAULT 0,  -- of these, how many a look has settled
    late_fields     TEXT NOT NULL DEFAULT '[]',  -- JSON: the fields they wrote
    lease_owner     TEXT NOT NULL DEFAULT '',
    lease_until     DOUBLE PRECISION NOT NULL DEFAULT 0,
    vanished_until  DOUBLE PRECISION,            -- when the lease ended that the present one was taken from
    created_at      DOUBLE PRECISION NOT NULL,
    updated_at      DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (instance, rule, key)
);
CREATE INDEX ticket_suspect ON servicenow.ticket (suspect_until);
CREATE INDEX ticket_sys_id ON servicenow.ticket (sys_id);

-- One row per event, rule and key.
CREATE TABLE servicenow.delivery (
    event        TEXT NOT NULL,
    rule         TEXT NOT NULL,                  -- '' where no rule wants the event
    key          TEXT NOT NULL,                  -- '' where it could not be told
    content      TEXT NOT NULL,                  -- digest: an event is known by id and content
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
    PRIMARY KEY (event, rule, key)
);
CREATE INDEX delivery_status ON servicenow.delivery (status, first_seen);
CREATE INDEX delivery_fingerprint ON servicenow.delivery (fingerprint, status);

-- What people are told by mail. One row per fingerprint.
CREATE TABLE servicenow.alert (
    fingerprint   TEXT NOT NULL PRIMARY KEY,
    kind          TEXT NOT NULL,
    facts         TEXT NOT NULL,                 -- JSON: what the mail may say, of the latest occurrence
    since         DOUBLE PRECISION NOT NULL,     -- when this episode began
    last_at       DOUBLE PRECISION NOT NULL,
    due_at        DOUBLE PRECISION NOT NULL,     -- no mail before
    unsent        INTEGER NOT NULL DEFAULT 0,    -- occurrences no mail has told of
    episode       TEXT NOT NULL,                 -- quiet (not told), told, over (to be told), closed
    mailed_at     DOUBLE PRECISION,
    claimed_until DOUBLE PRECISION NOT NULL DEFAULT 0  -- somebody is sending it until then
);

-- Calls that are not made for a while, because ServiceNow as a whole is unwell.
CREATE TABLE servicenow.hold (
    instance     TEXT NOT NULL,
    kind         TEXT NOT NULL,                  -- down, rate, auth
    credential   TEXT NOT NULL DEFAULT '',       -- digest, for auth
    reason       TEXT NOT NULL DEFAULT '',
    words        TEXT NOT NULL DEFAULT '',
    failures     INTEGER NOT NULL DEFAULT 0,     -- in a row
    doublings    INTEGER NOT NULL DEFAULT 0,
    since        DOUBLE PRECISION NOT NULL,
    until        DOUBLE PRECISION NOT NULL DEFAULT 0,  -- no call before; 0: not held
    proven_at    DOUBLE PRECISION NOT NULL DEFAULT 0,  -- for auth: when this credential was last accepted
    probe_until  DOUBLE PRECISION NOT NULL DEFAULT 0,  -- somebody is trying until then
    PRIMARY KEY (instance, kind, credential)
);

-- What was learnt of an instance.
CREATE TABLE servicenow.instance (
    instance        TEXT NOT NULL PRIMARY KEY,
    honours_sys_id  BOOLEAN NOT NULL
);
