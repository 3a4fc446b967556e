"""The judges: was what clients were told possible, and what does each judge prove?

Theory of operation
-------------------
`history` is the one model of what happened; `formats` reads it (`read_json`, `read_edn`,
`read_log`), `exports` writes it, `recording` is how a workload or the simulator records it. A judge
takes a history and returns a `verdict.Finding`: pass, fail or unknown, with evidence.

Linearizability: `models` are the specifications, `wgl` the search, `witness` and `zones` the fast
ways where the answers or the values say enough, `linearizable` chooses. Other promises, one file
each: `sets`, `queues`, `counters`, `bank`, `list_append` (with `cycles`), `sessions`, `replicas`, and
`fsck` for what lies on the disks. `judge` maps a model's name to its judges; `picture` draws why.

docs/checking.md says what each judge proves, and what it cannot.
"""
