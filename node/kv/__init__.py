"""The replicated state machine: an ordered key-value map with sessions."""
