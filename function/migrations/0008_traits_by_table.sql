-- What a clean create showed, by table: an access control is a table's. What was learnt so far came of one of them, and
-- nobody knows of which; so that a create in doubt is not repeated blindly, it is kept for each table that has tickets.
ALTER TABLE servicenow.instance RENAME TO instance_as_a_whole;
CREATE TABLE servicenow.instance (
    instance        TEXT NOT NULL,
    "table"         TEXT NOT NULL,
    honours_sys_id  BOOLEAN NOT NULL,
    kept_mark       TEXT NOT NULL DEFAULT '',  -- correlation_id, correlation_display or none; '' while nobody knows
    PRIMARY KEY (instance, "table")
);
INSERT INTO servicenow.instance (instance, "table", honours_sys_id, kept_mark)
SELECT DISTINCT i.instance, t."table", i.honours_sys_id, i.kept_mark
FROM servicenow.instance_as_a_whole AS i JOIN servicenow.ticket AS t ON t.instance = i.instance
WHERE t."table" <> '';
DROP TABLE servicenow.instance_as_a_whole;
