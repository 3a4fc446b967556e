"""`raftdeck demo`: the main job. Real input, real processes, real faults, everything read back.

`writer` writes the input and remembers what was acknowledged; `tour` does the damage; `collect`
follows the frames; `verify` reads everything back; `report` says what happened; `command` is the
verb.
"""

from cluster.demo.command import demo_command

__all__ = ["demo_command"]
