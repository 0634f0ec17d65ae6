"""Tests against real servers, which ``python -m tests.servers`` starts; see `tests.servers`."""
