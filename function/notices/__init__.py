"""Alerts, and the mails that they become."""
