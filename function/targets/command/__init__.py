"""What a person asks for in Slack, done to a ticket."""
