-- What a clean create showed of an instance: correlation_id, correlation_display or none, and '' while nobody knows.
ALTER TABLE servicenow.instance ADD COLUMN kept_mark TEXT NOT NULL DEFAULT '';
