"""Suites: what a test program printed, read as the sub-tests that it ran. One module a format; `read` chooses among them."""
