"""Sync from async, written once (`drive`), and one fetch for many waiters (`single_flight`)."""
