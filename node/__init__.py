"""One process of the cluster: the pure Raft core and the adapters around it."""
