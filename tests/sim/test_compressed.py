"""The simulator with compressed batches: crashes, torn writes and leader changes, as without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.sim.campaign import SeedFailure, outcome_of
from cluster.sim.plan import draw_plan
from cluster.sim.world import World
from wal.compression import Codec

SEEDS = 10


@pytest.mark.parametrize("codec", [Codec.LZ4, Codec.ZSTD], ids=lambda codec: codec.name)
def test_every_seed_holds_with_compressed_batches(codec: Codec) -> None:
    batches = 0
    for seed in range(1, SEEDS + 1):
        plan = replace(
            draw_plan(seed), compression=codec, value_bytes=(700, 2500), codec=seed % 2 == 1
        )
        world = World(plan)
        outcome = outcome_of(world)
        assert not isinstance(outcome, SeedFailure), f"seed {seed}, {codec.name}: {outcome}"
        batches += sum(node.multi.compression.batches for node in world.nodes.values() if node.up)
    assert batches > SEEDS, "or nothing was shown"
