"""What ties a node to its parent. What the kernel makes of it: `tests/process/test_node_process.py`."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.lifeline import die_with_parent, parent_is_alive

ROOT = Path(__file__).resolve().parents[2]


def in_a_child(expression: str) -> str:
    """Evaluate an expression in a process of its own: what prctl sets must not stay with the tests."""
    program = f"import os, ctypes; from node.lifeline import *; print({expression})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_child_of_the_right_parent_asks_the_kernel_to_be_killed_with_it():
    number = "ctypes.CDLL(None).prctl(2, ctypes.byref(n := ctypes.c_int()), 0, 0, 0) or n.value"
    answer = in_a_child(f"(die_with_parent(os.getppid()), {number})")
    assert answer == "(True, 9)", "PR_GET_PDEATHSIG: SIGKILL, which also ends a frozen process"


def test_a_parent_that_died_before_the_call_is_noticed():
    assert in_a_child("die_with_parent(os.getppid() + 1)") == "False"


def test_the_parent_is_compared_by_its_pid():
    assert parent_is_alive(os.getppid())
    assert not parent_is_alive(os.getpid())


def test_a_kernel_that_refuses_is_an_error_with_its_reason(monkeypatch):
    class Libc:
        @staticmethod
        def prctl(*_: int) -> int:
            ctypes.set_errno(1)
            return -1

    monkeypatch.setattr("node.lifeline.ctypes.CDLL", lambda *_, **__: Libc)
    with pytest.raises(PermissionError, match="PR_SET_PDEATHSIG"):
        die_with_parent(os.getppid())


def test_without_prctl_the_pipe_is_what_protects(monkeypatch):
    monkeypatch.setattr("node.lifeline.sys.platform", "darwin")
    monkeypatch.setattr("node.lifeline.ctypes.CDLL", None)
    assert die_with_parent(os.getppid())
