"""The processes of `flows.engine.ranks`: `launch FOLDER` is torchrun itself, `run FOLDER` one rank of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import typing
from pathlib import Path
from typing import Any

from flows.engine.ranks import ANSWER, EVENTS, JOB
from flows.engine.worker import describe_error, die_with_parent


def launch(folder: str) -> None:
    """torchrun, which ends with the worker that started it."""
    die_with_parent(int(os.environ["LIFESPAN_PARENT"]))
    from torch.distributed.run import main

    main(
        [
            f"--nproc-per-node={os.environ['LIFESPAN_RANKS']}",
            "--nnodes=1",
            f"--max-restarts={os.environ['LIFESPAN_RANK_RESTARTS']}",
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=127.0.0.1:0",
            "--rdzv-conf=timeout=60,last_call_timeout=5,join_timeout=60",
            "--local-addr=127.0.0.1",
            "--monitor-interval=0.5",
            "-m",
            "flows.engine.rank",
            "run",
            folder,
        ]
    )


def run(control: Path) -> None:
    """Execute the stage as one rank, which ends with torchrun."""
    die_with_parent(os.getppid())
    rank = int(os.environ["RANK"])
    try:
        _execute(control, rank)
    except Exception as error:
        (control / f"error-{rank}.tmp").write_text(json.dumps(describe_error(error)))
        (control / f"error-{rank}.tmp").replace(control / f"error-{rank}.json")
        raise


def _execute(control: Path, rank: int) -> None:
    import torch

    from components.stage_results import to_facts
    from components.training import distributed
    from flows.engine.jobs import check_code, load_stage
    from flows.engine.wire import Job, arrived, artifacts_from_json
    from flows.engine.work import NOTICE, Work, pack
    from flows.settings import ComputeConfig
    from storage.home import Home

    signal.signal(signal.SIGTERM, NOTICE.give)
    told = json.loads((control / JOB).read_text())
    job = Job.from_json(told["job"])
    stage = load_stage(job.stage)
    check_code(job, stage)
    execution = arrived("execution", dict(job.execution), ComputeConfig)
    torch.set_num_threads(execution.threads_per_worker)
    if execution.device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    hints = typing.get_type_hints(stage.fn)
    arguments = {name: arrived(name, value, hints[name]) for name, value in job.arguments.items()}
    inputs = {name: artifacts_from_json(value) for name, value in job.inputs.items()}
    home = Home(job.home, local=job.home_local)
    first = rank == 0
    distributed.join(torch.device(execution.device))
    with tempfile.TemporaryDirectory(prefix="lifespan-rank-") as aside, (control / EVENTS).open("w") as events:
        out = Path(told["out"]) if first else Path(aside)
        if first:  # what a killed attempt left
            for old in out.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()

        def emit(event: dict[str, Any]) -> None:
            if first:
                events.write(json.dumps(event) + "\n")
                events.flush()

        work = Work(
            out,
            Path(told["state"]),
            execution,
            store=home.store,
            local=home.local,
            far=home.unfinished(job.key) if first else None,
            report=emit,
            agree=distributed.any_rank,
        )
        result = stage.fn(work, **arguments, **inputs)
        spent = work.spent()
        spent["cpu_seconds"] = distributed.total(spent["cpu_seconds"])
        if first:
            answer = {
                "facts": to_facts(result),
                "points": work.metrics(),
                "rows": [(table, pack(row)) for table, rows in work.table_rows().items() for row in rows],
                "spent": spent,
            }
            (control / ANSWER).write_text(json.dumps(answer))
    distributed.leave()


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        launch(sys.argv[2])
    else:
        run(Path(sys.argv[2]))
