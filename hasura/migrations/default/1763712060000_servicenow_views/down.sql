DROP VIEW IF EXISTS public.tickets_action_items;
DROP INDEX IF EXISTS servicenow.tickets_action_items_row;
DROP VIEW IF EXISTS public.ticket_outage;
DROP INDEX IF EXISTS servicenow.ticket_outage_row;
