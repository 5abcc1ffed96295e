"""Calls over HTTP to any system: the way out, and one bound on the whole of a call."""
