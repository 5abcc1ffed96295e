"""Rows in, tickets out: the function between Hasura and ServiceNow."""
