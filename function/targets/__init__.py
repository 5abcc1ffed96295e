"""Each target: one kind of effect."""
