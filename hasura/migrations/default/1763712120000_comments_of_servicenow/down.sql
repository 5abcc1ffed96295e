ALTER TABLE public.outage_comments DROP COLUMN servicenow_id;
