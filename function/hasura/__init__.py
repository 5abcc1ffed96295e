"""A Hasura project: its metadata read and checked, the types of its columns, the views to put into
it."""
