"""Where values came from, and which values a tool's result vouches for.

leaves     the texts, numbers and booleans in any value, in bounded time; their digests
words      which values stand in the user's own words
labels     the labels of the values in a tool's result
structure  what the structure of an argument says beside its values
inside     what stands inside of arguments at the places at which rules look
items      the links, e-mail addresses and account numbers in a text
accounts   account numbers in a text
limits     which limits of a mandate have a value in them
joined     the provenance of several values together
origins_inside
           the provenance of what stands inside of an argument
arguments  the provenance of each argument of a call
records    what stood beside a value, in its record or in the call, and may vouch for it
"""
