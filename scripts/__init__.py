"""Thin programs; the shared parts of `demo`, `test` and `lock` start with an underscore."""
