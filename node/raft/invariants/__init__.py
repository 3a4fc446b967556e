"""What must always hold in one group, checked by an onlooker who sees every replica. Pure.

Theory of operation
-------------------
Whoever drives a cluster in one place (the simulator; a test) tells a `GroupInvariants` four kinds
of things: `stored` / `synced` (what a node's disk was asked for, and what of it is truly durable),
`observe` (a core, after each of its turns), `sent` (a message that leaves now) and `applied`.
The onlooker keeps its own picture of each node's durable log, fed by the disk and not by the core:
what a core *claims* to be durable is exactly what is on trial.

Every check is incremental: it looks at what changed since the node's last observation, so that its
cost follows the work done and not the length of the log. Two ideas make that enough: a batch is
identified by (term, base index), and each identity has one predecessor everywhere, so that equal
identities mean equal prefixes (Raft §5.3, by induction).

One file per invariant, with its source; `watch` asks them, `picture` is what they share. A violation
raises `InvariantError`, which names the property; `INVARIANTS` gives its source. "Raft" is Ongaro and
Ousterhout's paper (2014), "thesis" Ongaro's (2014), "TLA+" the names in etcd-io/raft's `etcdraft.tla`.
"""

from node.raft.invariants.rule import InvariantError, Rule
from node.raft.invariants.stored_log import Change, StoredLog
from node.raft.invariants.watch import RULES, GroupInvariants

__all__ = ["INVARIANTS", "Change", "GroupInvariants", "InvariantError", "Rule", "StoredLog"]

INVARIANTS: dict[str, str] = {rule.name: rule.source for rule in RULES}
"""Every property that is checked here, with its source."""
