-- Of a comment that was written in ServiceNow: the entry of its journal. Unique, so that it comes once.
ALTER TABLE public.outage_comments ADD COLUMN servicenow_id text UNIQUE;
