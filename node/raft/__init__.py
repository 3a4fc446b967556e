"""The pure Raft core: values in, a `Ready` out. Start with `types.Ready` and `core`."""
