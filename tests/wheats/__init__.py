"""Correct answers written differently, which the tests must accept; see tests/chaffs."""
