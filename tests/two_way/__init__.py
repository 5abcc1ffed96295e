"""What ServiceNow changes comes back to the app."""
