"""The rules file: read and checked, its templates, and what an event means by a rule. Pure."""
