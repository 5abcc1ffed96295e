"""The commands: what operators do from a shell."""
