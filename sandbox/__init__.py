"""The outside world in miniature, for `make run` and the tests."""
