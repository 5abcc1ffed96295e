-- A row whose own last call failed says nothing about ServiceNow as a whole when it fails again.
ALTER TABLE servicenow.ticket ADD COLUMN call_failed BOOLEAN NOT NULL DEFAULT FALSE;
-- Holds that a probe has ended, and no write has passed since.
ALTER TABLE servicenow.hold ADD COLUMN in_vain INTEGER NOT NULL DEFAULT 0;
-- Retention looks for the oldest.
CREATE INDEX delivery_last_at ON servicenow.delivery (last_at);
