-- Printed by `python -m function setup hasura`. The indexes are the ledger's:
-- this needs a role that owns its tables.
-- A ledger that has served several instances of ServiceNow has a record of each: the newest counts.
DO $$
BEGIN
    IF to_regclass('servicenow.ticket') IS NULL THEN
        RAISE EXCEPTION
            'the ledger''s tables are not in this database: its own migration comes before this one'
            USING HINT = 'Run `python -m function migrate` with DATABASE_URL set to this database, '
                'then this again.';
    END IF;
END
$$;

-- Rule outage: the tickets of public.outages, by its column id.
DROP INDEX IF EXISTS servicenow.ticket_outage_row;
CREATE INDEX ticket_outage_row ON servicenow.ticket ((
    CASE WHEN key ~ '^(0|-?[1-9][0-9]{0,18})$' THEN
        CASE WHEN key::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
            THEN key::bigint END
    END
)) WHERE rule = 'outage';
CREATE OR REPLACE VIEW public.ticket_outage AS
SELECT DISTINCT ON (keyed.id)
    keyed.id, ticket.number, ticket.state, ticket."table", ticket.sys_id,
    ticket.instance || '/' || ticket."table" || '.do?sys_id=' || ticket.sys_id AS url,
    to_timestamp(ticket.updated_at) AS updated_at
FROM servicenow.ticket
CROSS JOIN LATERAL (SELECT
    CASE WHEN key ~ '^(0|-?[1-9][0-9]{0,18})$' THEN
        CASE WHEN key::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
            THEN key::bigint END
    END AS id
) AS keyed
WHERE ticket.rule = 'outage' AND ticket.sys_id <> '' AND keyed.id IS NOT NULL
ORDER BY keyed.id, ticket.created_at DESC;

-- Rule action-items: the tickets of public.meetings, by its column id.
DROP INDEX IF EXISTS servicenow.tickets_action_items_row;
CREATE INDEX tickets_action_items_row ON servicenow.ticket ((
    CASE WHEN split_part(key, '/', 1) ~ '^(0|-?[1-9][0-9]{0,18})$' THEN
        CASE WHEN split_part(key, '/', 1)::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
            THEN split_part(key, '/', 1)::bigint END
    END
)) WHERE rule = 'action-items';
CREATE OR REPLACE VIEW public.tickets_action_items AS
SELECT DISTINCT ON (keyed.id, ticket.key)
    keyed.id, ticket.key, ticket.number, ticket.state, ticket."table", ticket.sys_id,
    ticket.instance || '/' || ticket."table" || '.do?sys_id=' || ticket.sys_id AS url,
    to_timestamp(ticket.updated_at) AS updated_at
FROM servicenow.ticket
CROSS JOIN LATERAL (SELECT
    CASE WHEN split_part(key, '/', 1) ~ '^(0|-?[1-9][0-9]{0,18})$' THEN
        CASE WHEN split_part(key, '/', 1)::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
            THEN split_part(key, '/', 1)::bigint END
    END AS id
) AS keyed
WHERE ticket.rule = 'action-items' AND ticket.sys_id <> '' AND keyed.id IS NOT NULL
ORDER BY keyed.id, ticket.key, ticket.created_at DESC;
