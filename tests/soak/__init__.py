"""A soak: threads, tasks and processes use the cache while nodes die, hang and are slow.

    python -m tests.soak --minutes 10

- `ledger`: what a key may hold, from what was written to it. No I/O.
- `workload`: the operations, each checked against the ledger.
- `worker`: a process with threads or event loops that do them.
- `chaos`: what happens to the nodes.
- `names`: what happens to the nodes' names.
- `report`: what is counted, put together and printed.
"""

# Seconds that a call may take where it has a deadline.
DEADLINE = 0.3
