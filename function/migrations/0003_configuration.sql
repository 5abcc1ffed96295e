-- The connection to ServiceNow that operators stored over HTTP: one row, or none (then the environment's is in force).
CREATE TABLE servicenow.configuration (
    one          INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    id           TEXT NOT NULL,
    stamp        TEXT NOT NULL,  -- another one with every change: all instances look at it before each delivery
    instance_url TEXT NOT NULL,
    username     TEXT NOT NULL,
    password     TEXT NOT NULL,  -- encrypted by CONFIG_KEY, together with the instance it is for
    created_at   DOUBLE PRECISION NOT NULL,
    updated_at   DOUBLE PRECISION NOT NULL
);

-- Connection tests that ServiceNow refused, or that are under way: accounts lock after about five in fifteen minutes.
CREATE TABLE servicenow.trial (
    instance TEXT NOT NULL,
    account  TEXT NOT NULL,      -- digest
    tries    INTEGER NOT NULL,
    last_at  DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (instance, account)
);
