"""Each source: a request, verified and parsed into an Event."""
