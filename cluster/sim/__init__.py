"""The first simulator: a whole cluster in one thread, on virtual time, from one seed.

Theory of operation
-------------------
`world` builds a cluster out of the parts that real processes use: `node.assembly.assemble`, the
turn loop, `WalStore`, the `wal` package and `cluster.client_core`. Only the ports are simulated: an
event heap is the clock (`heap`), messages travel over links that lose, delay, duplicate and reorder
(`network`), and files stand behind a write-back cache that a power cut empties (`disk`). After each
turn of a node `node.raft.invariants` looks at what changed; at the end `oracle` judges what the
clients were told. Every draw is a hash of (seed, stream, counter), so that a seed replays to the
byte, and taking one fault out of a schedule leaves all other draws as they were.
"""
