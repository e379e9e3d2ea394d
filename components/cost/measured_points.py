"""Measurements of serving and training, published or your own, as `components.cost.calibration` fits them."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

from components.cost.accounting import training_flops_per_token
from components.cost.entries import CatalogueError
from components.cost.hardware import find_hardware
from components.cost.serving_model import (
    Engine,
    Replica,
    ServedModel,
    StepWork,
    decode_work,
    largest_batch,
    prefill_work,
)

COLUMNS = (
    "kind", "model", "params", "active", "layers", "heads", "kv_heads", "head_dim", "expert_params", "experts", "top_k",
    "hardware", "devices", "precision", "weight_bytes", "kv_bytes", "seq", "batch", "context", "isl", "osl", "value",
    "metric", "source",
)  # fmt: skip
LONG_CONTEXT = 8192  # tokens, beyond which 6N says little of a training step
MOST_AT_A_TIME = 2048  # sequences that an engine runs at full load, where memory would hold more
ONE_NODE = 8  # devices with one fast link between all of them


@dataclass(frozen=True)
class Point:
    """One measurement: `seconds` of a decode step or of a prefill, and the work it did. Of whole requests (serving):
    of a decode step with its share, 1 of `answer` tokens, of the `prompts` that the batch brings. `share`: of a
    training run, its utilisation by 6N. `source`: who measured it, the first word of the column."""

    kind: str
    model: str
    hardware: str
    work: StepWork | None
    seconds: float
    share: float = 0.0
    prompts: StepWork | None = None
    answer: float = 1.0
    source: str = ""


def read_points(file: Path) -> list[Point]:
    """Points of kind decode, prefill, serving (whole requests at full load) and training (in bf16, contexts of up to
    8,192 tokens). Rows of other kinds, without a value, of hardware that is not in the catalogue, or of serving beyond
    one node (8 devices) are left out.

    `value` is tokens per second, of all devices together (per device in training). Raises CatalogueError naming the row
    and the column of a value that is no number.
    """
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{file}: {error}") from None
    if missing := [name for name in COLUMNS if not rows or name not in rows[0]]:
        raise CatalogueError(f"{file}: column {missing[0]!r} is missing: takes {', '.join(COLUMNS)}")
    found = (_point(row, f"{file}, row {number}") for number, row in enumerate(rows, 2))
    sources = ((row["source"].split() or [""])[0] for row in rows)
    return [replace(point, source=source) for point, source in zip(found, sources, strict=True) if point is not None]


def _point(row: dict[str, str], where: str) -> Point | None:
    def number(name: str, default: float | None = None) -> float:
        text = row[name] or ""
        try:
            value = float(text) if text or default is None else default
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise CatalogueError(f"{where}, {name}: takes a number of at least 0, got {text!r}")
        return value

    kind, rate = row["kind"], number("value", 0)
    try:
        device = find_hardware(row["hardware"])
    except ValueError:
        return None
    if kind not in ("decode", "prefill", "serving", "training") or not rate or not number("layers", 0):
        return None
    if kind != "training" and number("devices") > ONE_NODE:
        return None
    if kind == "serving" and "TTFT" in row["metric"]:  # a latency target: not at full load
        return None
    layers, width = int(number("layers")), int(number("heads") * number("head_dim"))
    if kind == "training":
        context = int(number("seq"))
        if context > LONG_CONTEXT or row["precision"] != "bf16":
            return None
        flops = training_flops_per_token("6n", number("active"), layers, width, context)
        return Point(kind, row["model"], device.name, None, 1 / rate, rate * flops / device.peak_flops)
    weight_bytes = number("weight_bytes", 2)
    model = ServedModel(
        number("params"),
        number("active"),
        layers,
        int(number("heads")),
        int(number("kv_heads")),
        int(number("head_dim")),
        number("expert_params", 0),
        int(number("experts", 1)),
        int(number("top_k", 1)),
        weight_bytes,
        number("kv_bytes", 2),
        # 4-bit weights are computed with in 16 bits where a device has no units for them.
        "fp8" if weight_bytes == 1 else "fp4" if weight_bytes < 1 and device.fp4_flops else "bf16",
    )
    on, engine = Replica(device, int(number("devices"))), _engine(row["source"])
    if kind == "serving":
        prompt, answer = number("isl"), number("osl")
        batch = number("batch", 0) or float(min(MOST_AT_A_TIME, largest_batch(model, on, prompt + answer / 2)))
        work = decode_work(model, on, batch, prompt + answer / 2, "server")
        prompts = prefill_work(model, on, prompt, batch)
        return Point(kind, row["model"], device.name, work, batch / rate, prompts=prompts, answer=answer)
    batch = number("batch")
    if kind == "prefill":
        tokens = number("isl")
        work = prefill_work(model, on, tokens, batch, engine)
        return Point(kind, row["model"], device.name, work, batch * tokens / rate)
    per_token = number("isl", 0) / number("osl") if engine == "server" and row["osl"] else 0.0
    work = decode_work(model, on, batch, number("context"), engine, per_token)
    return Point(kind, row["model"], device.name, work, batch / rate)


def _engine(source: str) -> Engine:
    """What a source measured with; your own points name it in `source`."""
    if "vLLM" in source:
        return "server"
    return "framework" if "xlstm" in source or "transformers" in source else "loop"
