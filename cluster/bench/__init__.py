"""Benches: figures that carry their command, their machine, and what they are compared with.

`report` is what every bench shares: the document, the machine, medians, ratios. `registry` names
the benches; `replication` is the first. `bare_pipe` is the upper bound that replication is
measured against, `driver` the process that drives our own client.
"""
