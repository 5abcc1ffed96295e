"""What everything here is made of: events, steps, outcomes, values, trails. Pure: no I/O, no clock,
no randomness."""
