"""One entry in a ticket's journal for each comment, and one more for each edit."""
