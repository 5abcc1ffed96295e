"""Our use of ServiceNow: which connection is in force, its circuit breaker, its tests."""
