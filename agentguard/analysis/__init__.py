"""Tools for the author of a policy. No tool call depends on them.

explain          which changes of a request would turn its decision
simulate         what other rules would decide on recorded calls
suggest          the least that recorded runs have needed
suggested_cedar  a suggestion, written as Cedar policies
lint             gaps in a policy that are no errors
"""
