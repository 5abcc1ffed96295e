"""What a person is told in Slack of a command that is over."""
