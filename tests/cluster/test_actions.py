import pytest

from cluster.actions import ACTIONS, ACTIONS_BY_NAME
from cluster.api import ActionResult
from cluster.cli_disk import disk
from cluster.cli_nodes import node
from cluster.operations import NODE_VERBS

COMMANDS = {"nodes": node, "disks": disk}
MORE_WORDS = {"disk-at", "disk-show"}
"""Verbs that are no key: one takes a point, one only asks."""


class Recorder:
    """Notes which method of a cluster was called."""

    def disk(self, fault, selector, seed=None, options=None):
        assert options is None, "a key takes the defaults"
        return ActionResult(f"disk-{fault}", selector, (1,), {"n1": "x"}, (str(seed),))

    def __getattr__(self, name):
        def method(selector, seed):
            return ActionResult(name, selector, (1,), {"n1": "x"}, (str(seed),))

        return method


def test_every_action_calls_the_method_of_its_name():
    for action in ACTIONS:
        result = action.run(Recorder(), "n1", 5)
        assert (result.action, result.selector, result.notes) == (action.name, "n1", ("5",))


def test_the_registry_the_supervisor_and_the_command_line_know_the_same_verbs():
    assert list(ACTIONS_BY_NAME) == [action.name for action in ACTIONS]
    assert set(ACTIONS_BY_NAME) | MORE_WORDS == set(NODE_VERBS)
    assert set(NODE_VERBS) == set(node.commands) | {f"disk-{word}" for word in disk.commands}
    assert all(action.word in COMMANDS[action.target].commands for action in ACTIONS)


def test_an_undoing_verb_exists_and_applies_to_what_the_undone_one_leaves():
    for action in ACTIONS:
        if action.undone_by is not None:
            assert action.reversible
            assert action.undone_by in ACTIONS_BY_NAME
    leaves = {"kill": "killed", "stop": "stopped", "pause": "frozen", "disk-powercut": "killed"}
    for name, state in leaves.items():
        undoing = NODE_VERBS[str(ACTIONS_BY_NAME[name].undone_by)]
        assert state in {s.value for s in undoing.applies_to}


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_an_action_explains_itself(action):
    command = COMMANDS[action.target].commands[action.word]
    assert action.example.startswith(f"raftdeck {action.target[:-1]} {action.word} ")
    assert action.example in str(command.epilog)
    assert action.help in str(command.help)


def test_a_result_is_one_json_document():
    result = ActionResult("kill", "random", (2,), {"n2": "killed"}, ("random picked n2",))
    assert result.encode()["schema"] == "raftdeck.action/1"
