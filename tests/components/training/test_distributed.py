"""Training on many ranks is training on one: losses, updates, states, and what a killed rank costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import ranks_of_a_training

STEPS = 50


def train(folder: Path, ranks: int, restarts: int = 0, **settings: Any) -> list[list[float]]:
    """The losses of every rank of a training that torchrun launches."""
    folder.mkdir(exist_ok=True)
    told = folder / "settings.json"
    told.write_text(json.dumps({"out": str(folder), **settings}))
    command = f"-m torch.distributed.run --nproc-per-node={ranks} --nnodes=1 --max-restarts={restarts} "
    command += "--rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 --local-addr=127.0.0.1 --monitor-interval=0.2"
    script = Path(ranks_of_a_training.__file__)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    done = subprocess.run(
        [sys.executable, *command.split(), str(script), str(told)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"losses-{rank}.json").read_text()) for rank in range(ranks)]


def alone(folder: Path, **settings: Any) -> list[float]:
    """The losses of one process without a process group."""
    folder.mkdir(exist_ok=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return ranks_of_a_training.run({"out": str(folder), "parallel": "", **settings})
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def assert_same(many: list[list[float]], one: list[float], within: float = 1e-9) -> None:
    for losses in many:
        assert losses == pytest.approx(one, abs=within, rel=0)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("one")
    found = {model: alone(folder / model, model=model, steps=STEPS) for model in ("dense", "moe")}
    for losses in found.values():
        assert len(set(losses)) == STEPS  # it trains, on other rows each step
    return found


def test_two_ranks_with_experts_train_as_one_process_does(reference: dict[str, list[float]], tmp_path: Path) -> None:
    many = train(tmp_path / "ddp", 2, model="moe", parallel="ddp", steps=STEPS)
    assert_same(many, reference["moe"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "parallel", "ranks", "more"),
    [
        ("dense", "ddp", 2, {}),
        ("dense", "fsdp2", 2, {}),
        ("moe", "fsdp2", 2, {}),
        ("moe", "fsdp2", 3, {}),  # 5 experts and 20 rows do not split evenly
        ("moe", "ddp", 2, {"accumulation": 2}),
    ],
)
def test_many_ranks_train_as_one_process_does(
    reference: dict[str, list[float]], tmp_path: Path, model: str, parallel: str, ranks: int, more: dict[str, int]
) -> None:
    assert_same(train(tmp_path / "many", ranks, model=model, parallel=parallel, steps=STEPS, **more), reference[model])


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_what_two_ranks_saved_goes_on_on_one_and_on_four(
    reference: dict[str, list[float]], tmp_path: Path, parallel: str
) -> None:
    two = tmp_path / "two"
    train(two, 2, model="moe", parallel=parallel, steps=20, save_at=[20])
    files = sorted(path.name for path in (two / "20").iterdir())
    assert all(name.endswith(".safetensors") for name in files)  # nothing is pickled
    rest = reference["moe"][20:]
    assert alone(tmp_path / "one", model="moe", steps=STEPS, load=str(two / "20")) == pytest.approx(
        rest, abs=1e-9, rel=0
    )
    assert_same(train(tmp_path / "four", 4, model="moe", parallel=parallel, steps=STEPS, load=str(two / "20")), rest)


@pytest.mark.slow
def test_a_killed_rank_restarts_all_and_they_end_the_same(reference: dict[str, list[float]], tmp_path: Path) -> None:
    out = tmp_path / "killed"
    out.mkdir()
    (out / "fuse").touch()
    many = train(out, 2, 1, model="dense", parallel="ddp", steps=STEPS, save_at=[10, 20], kill_at=25)
    assert not (out / "fuse").exists()
    assert_same(many, reference["dense"][20:])


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from components.training.distributed import Group

    group = Group.__new__(Group)
    group.rank, group.size = 0, 5
    with pytest.raises(ValueError, match="batch_size is 12: on 5 ranks it must be a multiple of 5"):
        group.batches(ranks_of_a_training.batch_at)(0)
