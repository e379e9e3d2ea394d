"""The flows that a schedule or a person starts in Prefect: the whole life, and each part of it with what it needs.

`lifespan deploy` registers them, and `prefect.yaml` does too. Their runs execute in a process of a work pool's worker.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import traceback
from typing import Any

from flows.services import hermetic

hermetic.apply(os.environ.get("LIFESPAN_HOME", ".lifespan"))

from prefect import Flow, flow, runtime  # noqa: E402 - the environment comes first
from prefect.concurrency.sync import concurrency  # noqa: E402
from prefect.events import emit_event  # noqa: E402
from prefect.states import Cancelled, Completed, Failed, State  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402

from flows.deployment.catalogue import EVALUATE, EVALUATE_DOC, FLOWS  # noqa: E402
from flows.runs.prefect_view import show_report, show_stages  # noqa: E402
from flows.settings import ConfigError  # noqa: E402
from storage.redaction import masked  # noqa: E402

MOST_STAGES = 1000  # a waiting task is a waiting thread
ACCELERATOR = "accelerator"  # a global concurrency limit: as many runs at once as there are devices


def device_to_itself(device: str) -> contextlib.AbstractContextManager[None]:
    """Wait until the accelerator is free and hold it for the block; nothing to wait for on CPU."""
    if device == "cpu":
        return contextlib.nullcontext()
    return concurrency(ACCELERATOR, occupy=1)  # a server that knows no such limit lets it pass


def _live(groups: list[str], profile: str, settings: list[str]) -> State[Any]:
    """Run the stages of these groups, all if there are none, and show them; the flow run's last state."""
    from flows.config import load_config
    from flows.lifecycle import run_lifecycle
    from flows.runs.drift import cost_drift
    from storage.home import Home

    home, cfg = Home.from_env(), load_config(profile, settings)
    here = contextvars.copy_context()  # the flow run, for the thread that shows the stages
    with device_to_itself(cfg.compute.device):
        result = run_lifecycle(
            cfg,
            home=home,
            profile=profile,
            only=groups or None,
            show=lambda runner: here.run(show_stages, runner),
        )
    if result.report is not None:
        show_report(home.report(result.run_id), result.report)
    if drift := cost_drift(home, result.run_id):
        _tell("lifespan.cost.drift", drift.text, ratio=drift.ratio, run_id=result.run_id)
    message = f"run {result.run_id}: {result.summary}"
    if result.status == "interrupted":
        return Cancelled(message=f"{message}; the next run goes on from here")
    if result.status == "waiting":
        return Cancelled(name="Waiting", message="; ".join(result.waiting.values())[:1000])
    if result.status == "failed":
        return Failed(message="; ".join([message, *result.failures.values()])[:1000])
    return Completed(message=message)


def _tell(event: str, message: str, **payload: Any) -> None:
    """An event of this flow run, for the automations."""
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{runtime.flow_run.id}",
        "prefect.resource.name": str(runtime.flow_run.name),
    }
    emit_event(event, resource=resource, payload={"message": message, **payload})


def _flow(name: str) -> Flow[Any, Any]:
    groups, doc = FLOWS[name]

    def body(profile: str = "laptop", settings: list[str] | None = None) -> Any:
        try:
            state = _live(list(groups), profile, settings or [])
        except Exception as error:
            # Prefect would keep the message, and its log the traceback, with all that is secret in them.
            print(masked(traceback.format_exc()), file=sys.stderr)
            kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
            state = Failed(message=masked(f"{kind}{error}")[:1000])
        _tell(f"lifespan.run.{str(state.name).lower()}", str(state.message))
        return state

    body.__name__ = body.__qualname__ = name  # a deployment's entrypoint is the function's name in this module
    decorate = flow(
        name=name,
        description=doc,
        flow_run_name="{profile}",
        task_runner=ThreadPoolTaskRunner(max_workers=MOST_STAGES),  # type: ignore[arg-type]
        persist_result=False,
    )
    return decorate(body)


@flow(name=EVALUATE, description=EVALUATE_DOC, flow_run_name="{model} on {task}", persist_result=False)
def evaluate(
    model: str = "base", task: str = "", strategies: str = "direct,cot", limit: int = 0, max_tokens: int = 1024
) -> Any:
    """`lifespan evaluate MODEL|URL --task …`, on a schedule or by hand."""
    from components.reasoning.evaluation import EvaluationSettings
    from flows.runs.task_evaluation import EndpointOptions, TaskOptions, evaluate_task
    from flows.runs.token_prices import Prices
    from storage.home import Home

    state: State[Any]
    try:
        if not task:
            raise ConfigError("the parameter `task` is empty: give a file of questions")
        names = tuple(name.strip() for name in strategies.split(",") if name.strip())
        options = TaskOptions(model, task, names, limit, EvaluationSettings(max_tokens=max_tokens))
        result = evaluate_task(Home.from_env(), options, EndpointOptions(), Prices(), print, lambda name, count: None)
        told = [f"{tally.strategy.name} {tally.report().of_all.value:.1%}" for tally in result.tallies]
        state = Completed(message=f"run {result.run_id}: {', '.join(told)} of {result.num_items} items")
    except Exception as error:
        print(masked(traceback.format_exc()), file=sys.stderr)
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        state = Failed(message=masked(f"{kind}{error}")[:1000])
    _tell(f"lifespan.run.{str(state.name).lower()}", str(state.message))
    return state


lifecycle = _flow("lifecycle")
data = _flow("data")
pretrain = _flow("pretrain")
sft = _flow("sft")
rlhf = _flow("rlhf")
scaling = _flow("scaling")
architecture = _flow("architecture")
reasoning = _flow("reasoning")
forgetting = _flow("forgetting")
cost = _flow("cost")
