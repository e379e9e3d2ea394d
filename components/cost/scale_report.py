"""Layouts of a large training in words: a table of them, and what the fastest costs from start to end."""

from __future__ import annotations

from collections.abc import Sequence

from components.cost.failures import CHECKPOINT_BYTES, Failures, checkpoint_seconds
from components.cost.layouts import DeviceMemory, Layout, Step, Training
from components.model.config import count_params

Made = tuple[Layout, DeviceMemory, Step]
GB = 1e9


def layout_rows(training: Training, made: Sequence[Made]) -> list[dict[str, str]]:
    """A row for each layout, for people."""
    rows = []
    for layout, memory, step in made:
        split = f"data {layout.data} ({layout.sharding})"
        split += "".join(
            f" x {name} {getattr(layout, name)}" for name in ("tensor", "pipeline") if getattr(layout, name) > 1
        )
        split += f", expert {layout.expert}" if layout.expert > 1 else ""
        passing = memory.activations + memory.logits
        rows.append(
            {
                "layout": split,
                "sequences at once": f"{layout.micro_batch} of {training.micro_batches(layout) * layout.micro_batch}"
                + (", recomputed" if layout.recompute else ""),
                "GB a device": f"{memory.total / GB:.1f}",
                "weights, states": f"{(memory.total - passing) / GB:.1f}",
                "activations, logits": f"{passing / GB:.1f}",
                "step s": f"{step.seconds:.2f}",
                "bubble": f"{step.bubble / step.seconds:.0%}",
                "tensor": f"{step.tensor / step.seconds:.0%}",
                "data (hidden)": f"{step.exposed_data / step.seconds:.0%} ({(step.data - step.exposed_data):.2f} s)",
                "MFU": f"{step.mfu:.0%}",
                "tokens/s": f"{step.tokens_per_second * layout.num_devices:,.0f}",
            }
            | ({"expert": f"{step.expert / step.seconds:.0%}"} if training.model.moe else {})
        )
    return rows


def training_lines(
    training: Training,
    made: Made,
    tokens: float,
    usd_per_hour: float,
    store_bytes_per_second: float,
    preemptions_per_device_hour: float = 0.0,
) -> list[str]:
    """What the whole training takes in this layout: days, dollars, checkpoints, failures, data."""
    layout, _, step = made
    params = count_params(training.model).total
    saving = checkpoint_seconds(params, store_bytes_per_second)
    failures = Failures(layout.num_devices, saving, preemptions_per_device_hour=preemptions_per_device_hour)
    every = failures.best_interval
    useful = failures.useful_share(every)
    hours = tokens / (step.tokens_per_second * layout.num_devices) / 3600
    if useful <= 0:
        return ["it never ends: it fails faster than it can save a checkpoint; give fewer devices or a faster store"]
    whole = hours / useful
    dollars = whole * layout.num_devices * usd_per_hour
    rate = step.tokens_per_second * layout.num_devices * 4
    return [
        f"{tokens:.3g} tokens take {hours / 24:.3g} days of training, {whole / 24:.3g} with failures: "
        f"{whole * layout.num_devices:,.0f} device hours, ${dollars:,.0f} at ${usd_per_hour:.2f} per hour",
        f"a failure every {failures.mean_seconds_between / 3600:.3g} h, {failures.expected_failures(whole):.3g} in "
        f"all: {1 - useful:.2%} of the time is lost to them, {failures.restart_seconds:.0f} s to start again each",
        f"a checkpoint is {CHECKPOINT_BYTES * params / GB:,.0f} GB and takes {saving:.0f} s; the least is lost with "
        f"one every {every / 60:.3g} min",
        f"data: {rate / 1e6:.3g} MB of token ids per second, {layout.data} readers",
    ]
