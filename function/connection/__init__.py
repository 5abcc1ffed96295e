"""Our use of ServiceNow and of Hasura: which connection is in force, circuit breakers, tests."""
