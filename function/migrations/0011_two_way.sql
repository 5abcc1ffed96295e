-- What ServiceNow changes comes back to the app.

-- What a rule last gave the app of a ticket: the base that a look is compared with. Kept as long as the ticket is.
CREATE TABLE servicenow.shadow (
    instance       TEXT NOT NULL,                   -- the ServiceNow instance's URL
    rule           TEXT NOT NULL,                   -- the id of a rule from servicenow/TABLE
    sys_id         TEXT NOT NULL,                   -- the ticket's
    image          TEXT NOT NULL DEFAULT '{}',      -- JSON: column -> value; one that is missing is not known
    mod_count      INTEGER NOT NULL DEFAULT 0,      -- sys_mod_count of the last look
    awaits_insert  BOOLEAN NOT NULL DEFAULT FALSE,  -- the rule is still to tell of the ticket for the first time
    journal        TEXT NOT NULL DEFAULT '',        -- JSON: which entries the app was given
    window_start   DOUBLE PRECISION NOT NULL DEFAULT 0,  -- when the present count of updates began
    window_count   INTEGER NOT NULL DEFAULT 0,
    updated_at     DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (instance, rule, sys_id)
);
CREATE INDEX shadow_sys_id ON servicenow.shadow (instance, sys_id);

-- Accepted and not yet worked. An INSERT here is an event of Hasura's, which brings the work back to us.
CREATE TABLE servicenow.inbox (
    id        TEXT PRIMARY KEY,
    source    TEXT NOT NULL,                 -- servicenow
    subject   TEXT NOT NULL,                 -- what it is about: incident/SYS_ID
    body      TEXT NOT NULL DEFAULT '',      -- as it was received
    notified  INTEGER NOT NULL DEFAULT 1,    -- how often; work that began before the last time does not end it
    received  DOUBLE PRECISION NOT NULL,     -- the first time
    due_at    DOUBLE PRECISION NOT NULL      -- when the housekeeping does it, unless Hasura's event has by then
);
CREATE INDEX inbox_due ON servicenow.inbox (due_at);

-- How far `sync` has read a table, by (sys_updated_on, sys_id).
CREATE TABLE servicenow.watermark (
    instance    TEXT NOT NULL,
    subject     TEXT NOT NULL,               -- the table and the query it is read by
    updated_on  TEXT NOT NULL,               -- of the last record read, as ServiceNow has it
    sys_id      TEXT NOT NULL,
    updated_at  DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (instance, subject)
);

ALTER TABLE servicenow.ticket ADD COLUMN sent_values TEXT NOT NULL DEFAULT '{}';  -- JSON: field -> values that were sent and may still come to stand there
ALTER TABLE servicenow.ticket ADD COLUMN written_counts TEXT NOT NULL DEFAULT '{}';  -- JSON: field -> sys_mod_count after our last write of it

-- A row may name a ticket that is there already.
ALTER TABLE servicenow.ticket ADD COLUMN named_sys_id TEXT NOT NULL DEFAULT '';    -- as the row names it, of whatever generation
ALTER TABLE servicenow.ticket ADD COLUMN taken_fields TEXT NOT NULL DEFAULT '[]';  -- JSON: taken for sent when it was adopted
CREATE INDEX ticket_named_sys_id ON servicenow.ticket (named_sys_id);
