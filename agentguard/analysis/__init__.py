"""Tools for the author of a policy. No tool call depends on them.

decide           the request and the decision of a whole guard, without carrying anything out
explain          the smallest changes of a request that would turn its decision
changes          the changes that `explain` tries
simulate         what a guard would now decide on recorded calls
suggest          the least that recorded runs have needed
suggested_cedar  a suggestion, written as Cedar policies
lint             gaps in a set of policies that are no errors
"""
