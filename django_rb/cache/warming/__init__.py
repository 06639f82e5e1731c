"""OPTIONS["WARM_FROM"]: keys are read from the old layout, and copied to the new one.

`old_layout` reads from the nodes of the old layout, `fills` stores values in the new one,
`reading` and `operations` are the operations of such a cache, and `tally` counts how many keys
were read from where.
"""
