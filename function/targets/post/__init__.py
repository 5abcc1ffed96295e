"""Posts: other systems that are told of a row."""
