"""What ServiceNow changes, brought to the app."""
