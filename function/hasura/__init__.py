"""Hasura: a project's metadata and views, read, checked and written; a client of its GraphQL."""
