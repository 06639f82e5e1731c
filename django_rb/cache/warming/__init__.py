"""OPTIONS["WARM_FROM"]: what the layout before has counts, and comes along as it is read.

`old_layout` asks the nodes of the layout before, `fills` stores what they say in the new one,
`reading` and `operations` are the operations of a cache that does so, and `tally` counts how
much that is.
"""
