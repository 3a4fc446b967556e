"""A plan as JSON, so that a schedule can be kept, edited by hand, and run again.

    {"schema": "raftdeck.schedule/1", "plan": {…the fields of `Plan`…}, "expect": "…"}

`expect` names what the run is known to fail with, if it is; nothing but the reader uses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from enum import Enum
from typing import Any, Final

from cluster.sim.driver import DiskTimes
from cluster.sim.network import LinkProfile
from cluster.sim.plan import Plan
from cluster.sim.schedule import Fault, FaultKind
from node.compaction import CompactionPolicy
from wal import SyncPolicy
from wal.compression import Codec

__all__ = ["SCHEMA", "ScheduleError", "decode_plan", "encode_plan"]

SCHEMA: Final = "raftdeck.schedule/1"
_PARTS: Final[dict[str, type[Any]]] = {
    "links": LinkProfile,
    "policy": SyncPolicy,
    "disk": DiskTimes,
    "compaction": CompactionPolicy,
}


class ScheduleError(ValueError):
    """The document is no schedule; the text says where."""


def encode_plan(plan: Plan, expect: str = "") -> str:
    """Return the document of a plan."""
    document = {"schema": SCHEMA, "expect": expect, "plan": asdict(plan)}
    return json.dumps(document, indent=1, default=_plain) + "\n"


def decode_plan(text: str) -> Plan:
    """Return the plan of a document. `ScheduleError` says what is wrong with it."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ScheduleError(f"line {error.lineno}: {error.msg}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ScheduleError(f"no schedule: its schema must be {SCHEMA}")
    values = _known(Plan, document.get("plan"), "plan")
    for name, kind in _PARTS.items():
        values[name] = _built(kind, _known(kind, values.get(name), f"plan.{name}"), name)
    faults = values.get("faults")
    if not isinstance(faults, list):
        raise ScheduleError("plan.faults: a list is needed")
    values["faults"] = tuple(_fault(fault, number) for number, fault in enumerate(faults))
    try:
        values["compression"] = Codec(values.get("compression", Codec.NONE))
    except ValueError as error:
        raise ScheduleError(f"plan.compression: {error}") from None
    values["value_bytes"] = tuple(values.get("value_bytes", ()))
    values["skipped"] = tuple(tuple(each) for each in values.get("skipped", ()))
    plan: Plan = _built(Plan, values, "plan")
    if plan.nodes < 1 or plan.clients < 1 or plan.groups < 1 or not plan.value_bytes:
        raise ScheduleError("plan: at least one node, one client, one group and one size of values")
    return plan


def _fault(document: object, number: int) -> Fault:
    where = f"plan.faults[{number}]"
    values = _known(Fault, document, where)
    try:
        values["kind"] = FaultKind(values.get("kind"))
    except ValueError:
        kinds = ", ".join(kind.value for kind in FaultKind)
        raise ScheduleError(f"{where}.kind: {values.get('kind')!r}; known are: {kinds}") from None
    fault: Fault = _built(Fault, values, where)
    return fault


def _known(kind: type[Any], document: object, where: str) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise ScheduleError(f"{where}: an object is needed")
    names = {spec.name for spec in fields(kind)}
    unknown = sorted(set(document) - names)
    if unknown:
        raise ScheduleError(f"{where}: unknown: {', '.join(unknown)}")
    return dict(document)


def _built(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ScheduleError(f"{where}: {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{value!r} has no place in a schedule")
