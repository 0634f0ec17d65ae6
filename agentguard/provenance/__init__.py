"""Where values came from, and which values a tool's result vouches for.

leaves     the texts, numbers and booleans in any value, in bounded time; their digests
words      which values stand in the user's own words
labels     the labels of the values in a tool's result
structure  what the structure of an argument says beside its values
arguments  the provenance of each argument of a call
"""
