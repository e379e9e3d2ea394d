"""Work: what a stage reports survives a kill once and only once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.engine.work import Work, checksum, seconds_between_states
from flows.settings import ComputeConfig


def make(folder: Path, **options: float) -> Work:
    out, state = folder / "out", folder / "state"
    out.mkdir(parents=True, exist_ok=True)
    return Work(out, state, ComputeConfig(**options))  # type: ignore[arg-type]


def test_a_fresh_start_has_no_state(tmp_path: Path) -> None:
    assert make(tmp_path).load_state() is None


def test_tensors_meta_and_step_come_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "rng": torch.get_rng_state()}
    tensors["half"] = tensors["w"].to(torch.bfloat16)
    make(tmp_path).save_state(7, tensors, {"position": [1, 2], "lr": 0.1})
    loaded = make(tmp_path).load_state()
    assert loaded is not None
    step, found, meta = loaded
    assert (step, meta) == (7, {"position": [1, 2], "lr": 0.1})
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_only_the_last_two_states_are_kept_and_a_torn_one_falls_back(tmp_path: Path) -> None:
    work = make(tmp_path)
    for step in (1, 2, 3):
        work.log(step, {"loss": step})
        work.save_state(step, {"w": torch.tensor([float(step)])}, {})
    assert sorted(file.name for file in work.state.glob("*.safetensors")) == [
        "step-000000002.safetensors",
        "step-000000003.safetensors",
    ]
    torn = work.state / "step-000000003.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1] + b"\0")
    resumed = make(tmp_path)
    loaded = resumed.load_state()
    assert loaded is not None
    assert loaded[0] == 2
    assert [row[0] for row in resumed.metrics()] == [1, 2]


@settings(max_examples=25, deadline=None)
@given(kills=st.lists(st.integers(1, 19), max_size=4), every=st.integers(1, 6))
def test_kills_neither_lose_nor_double_a_row(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], every: int
) -> None:
    folder = tmp_path_factory.mktemp("work")
    for stop_at in [*kills, 20]:
        work = make(folder)
        loaded = work.load_state()
        step = loaded[0] if loaded else 0
        while step < max(stop_at, step):  # a kill: whatever was not saved is gone with the process
            step += 1
            work.log(step, {"loss": 1.0 / step})
            work.rows("samples", [{"step": step, "prompt": "p"}])
            work.usage(tokens=5)
            if step % every == 0:
                work.save_state(step, {"w": torch.zeros(1)}, {})
    assert [row[:3] for row in work.metrics()] == [(step, "loss", 1.0 / step) for step in range(1, 21)]
    assert [row["step"] for row in work.table_rows()["samples"]] == list(range(1, 21))
    assert work.spent()["tokens"] == 100


def test_times_in_rows_survive(tmp_path: Path) -> None:
    at = datetime(2025, 1, 2, 3, 4, 5, 678, UTC)
    work = make(tmp_path)
    work.rows("forecasts", [{"made_at": at, "sweep": "dense"}])
    work.save_state(1, {"w": torch.zeros(1)}, {})
    resumed = make(tmp_path)
    resumed.load_state()
    assert resumed.table_rows() == {"forecasts": [{"made_at": at, "sweep": "dense"}]}


def test_state_is_due_by_the_clock(tmp_path: Path) -> None:
    assert not make(tmp_path, checkpoint_seconds=60.0).state_due()
    work = make(tmp_path, checkpoint_seconds=0.0)
    assert work.state_due()


def test_progress_is_limited_but_the_last_report_always_goes_out(tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    work = Work(tmp_path, tmp_path / "state", report=told.append)
    for step in range(1, 1001):
        work.progress(step, 1000, loss=0.5)
    assert len(told) < 20
    assert (told[-1]["done"], told[-1]["total"]) == (1000.0, 1000.0)


def test_states_are_as_far_apart_as_their_cost_asks_for() -> None:
    assert seconds_between_states(20.0, 0.5) == 20.0
    between = seconds_between_states(20.0, 62.0)
    assert 62.0 / (62.0 + between) == pytest.approx(0.05)
    assert seconds_between_states(0.0, 62.0) == 0.0


def test_a_state_that_was_dear_to_save_puts_the_next_one_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make(tmp_path, checkpoint_seconds=1.0)
    clock = [100.0]
    monkeypatch.setattr("flows.engine.work.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("flows.engine.work.checksum", lambda file: (clock.__setitem__(0, 110.0), checksum(file))[1])
    work.save_state(1, {"w": torch.zeros(1)}, {})
    clock[0] = 110.0 + 189
    assert not work.state_due()
    clock[0] = 110.0 + 191
    assert work.state_due()


def test_saving_makes_no_copy_of_the_tensors(tmp_path: Path) -> None:
    """Python and numpy hold no copy of what is written; safetensors writes from where the tensors lie."""
    import tracemalloc

    tensors = {str(i): torch.ones(1 << 20) for i in range(8)}
    work = make(tmp_path)
    work.save_state(1, tensors, {})  # imports
    tracemalloc.start()
    try:
        work.save_state(2, tensors, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20  # of 32 MiB
