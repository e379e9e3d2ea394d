"""kill -9 at any moment: an alignment stage that is started again gives the same bits as one left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from killing import World, start_server, told, undisturbed_and_killed
from toy_alignment import CASES, live, make_world


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    start_server()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def same_bits(case: str, folder: Path, world: World, kills: int) -> None:
    alone, killed = undisturbed_and_killed(live, case, folder, world, kills)
    files = {file.name for file in (alone / "out").glob("*.safetensors")}
    assert files
    for name in files:
        assert (alone / "out" / name).read_bytes() == (killed / "out" / name).read_bytes()
    # What it reports is the same too: each metric of each step once, and the same facts.
    assert told(alone) == told(killed)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_stage_ends_with_the_same_bits(case: str, tmp_path: Path, world: World) -> None:
    same_bits(case, tmp_path, world, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_stage_that_is_killed_again_and_again_does_too(case: str, tmp_path: Path, world: World) -> None:
    same_bits(case, tmp_path, world, kills=4)
