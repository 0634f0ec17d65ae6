"""One tool call, from its interception to its record."""
