"""Where values came from, and what a tool's result vouches for.

    leaves     the texts, numbers and booleans in any value, in bounded time; their digests
    words      what the user's own words say
    labels     what a result vouches for
    arguments  where the value of an argument came from

`arguments` was planned as `origins`; an origin is scheme, host and port everywhere else.
"""
