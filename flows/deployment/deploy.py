"""`lifespan deploy` and `lifespan schedule`: what a Prefect server knows of this project.

Deployments run in the pool `lifespan`, in the folder and home from which they were deployed. A deployment takes one run
at a time; one that is started twice waits for its turn. Shipped with them: a nightly evaluation (paused until it is
resumed), and automations that mark runs without a sign of life as crashed, and tell of failures and of cost drift.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from flows.deployment.catalogue import EVALUATE, EVALUATE_DOC, FLOWS
from flows.services import hermetic, services
from flows.settings import PROFILES, ConfigError, profile_path
from storage.home import Home
from storage.redaction import masked_addresses

NAME = "lifespan"  # of every deployment: `lifecycle/lifespan`, `data/lifespan`, …
NIGHTLY = "nightly-evaluation"
WEBHOOK = "lifespan-webhook"
MIN_SECONDS = 30.0  # between two runs of a schedule
HEARTBEAT_SECONDS = 30
LOST_SECONDS = 90  # three heartbeats
ENDS = ("completed", "failed", "cancelled", "waiting")  # how a run ends, as `lifespan.run.…` tells
# What a webhook is sent: "reasoning smoke: 3 failed …". Chat services show the field `text`.
PAYLOAD = """
{%- set text -%}
{% for each in event.related if each.role == 'flow' %}{{ each.name }} {% endfor %}{{ event.resource.name }}: {{ "" -}}
{{ event.payload.message or event.resource['prefect.state-message'] or event.event }}
{%- endset -%}
{"subject": "Lifespan", "event": {{ event.event | tojson }}, "text": {{ text | tojson }}}
""".strip()


class NoServer(ConfigError):
    """There is no Prefect server to talk to."""


@dataclass(frozen=True)
class Schedule:
    """One schedule of a deployment."""

    slug: str
    flow: str
    when: str
    active: bool
    parameters: Mapping[str, Any]


def connect(home: Home) -> None:
    """Use the server that PREFECT_API_URL names, or else the one of `lifespan up`.

    Raises:
        NoServer
    """
    services.join(home)
    hermetic.apply(home.local)
    if "PREFECT_API_URL" not in os.environ:
        raise NoServer("no Prefect server: start one with `lifespan up`, or name yours in PREFECT_API_URL")


def deploy(home: Home, profile: str, webhook: str | None = None) -> list[str]:
    """Register every flow with its defaults; the deployments' names. Registering again updates them.

    Args:
        home: where the runs will live.
        profile: that they take unless told otherwise.
        webhook: http(s) address to which failures and cost drift are posted; None keeps the present one, "" none.

    Raises:
        ConfigError: `webhook` is no such address.
    """
    if webhook and not re.match(r"(?i)https?://[^/\s]", webhook):
        raise ConfigError("--webhook takes an address that begins with http:// or https://")
    connect(home)
    profile = _from_anywhere(profile)
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import EntrypointType

    from flows.deployment import deployments

    services.make_pool()
    folder = Path(__file__).parents[2]
    one = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    environment = {
        **_home_of(home),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PYTHONPATH": str(folder),
    }
    names = []
    flows = {name: (doc, {"profile": profile, "settings": []}) for name, (_, doc) in FLOWS.items()}
    for name, (doc, parameters) in {**flows, EVALUATE: (EVALUATE_DOC, {})}.items():
        deployment = getattr(deployments, name).to_deployment(
            NAME,
            parameters=parameters,
            description=doc,
            tags=["lifespan"],
            concurrency_limit=one,
            work_pool_name=services.POOL,
            job_variables={"env": environment, "working_dir": str(Path.cwd())},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        deployment.apply()
        names.append(f"{name}/{NAME}")
    if not any(schedule.slug == NIGHTLY for schedule in schedules(home)):
        add_schedule(home, "reasoning", "0 3 * * *", profile=profile, slug=NIGHTLY, active=False)
    _limit_accelerator(deployments.ACCELERATOR)
    _automate(webhook)
    return names


def _from_anywhere(profile: str) -> str:
    """A profile of ours by its name, a user's file by its whole path: runs begin in the folder of `lifespan deploy`."""
    path = profile_path(profile)
    return profile if path.parent == PROFILES else str(path.absolute())


def _limit_accelerator(name: str) -> None:
    """One run at a time on the accelerator, unless the user has set another number."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))


def _home_of(home: Home) -> dict[str, str]:
    """The home for the server's database; one whose address holds a password is left to the worker's environment."""
    return {"LIFESPAN_HOME": home.root} if masked_addresses(home.root) == home.root else {}


def _automate(webhook: str | None) -> None:
    """Create or update the automations; they call `webhook` where it is given."""
    from prefect.automations import AutomationCore, ChangeFlowRunState, DoNothing, EventTrigger, Posture
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.events import ResourceSpecification

    flow_runs = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled")}
    # Prefect's events of a run that a schedule made wait for one that never comes, and count a quarter of an hour late;
    # `lifespan.run.…` are those that our flows tell themselves.
    ended |= {f"lifespan.run.{state}" for state in ENDS}
    block = _webhook_block(webhook)
    told = CallWebhook(block_document_id=block, payload=PAYLOAD) if block else DoNothing()
    automations = [
        AutomationCore(
            name="lifespan: a run without a sign of life has crashed",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.heartbeat", *ended},
                match=flow_runs,
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=LOST_SECONDS),
            ),
            actions=[
                ChangeFlowRunState(
                    name="Crashed",
                    state=StateType.CRASHED,
                    message=f"no sign of life for {LOST_SECONDS} s",
                    force=False,
                )
            ],
        ),
        AutomationCore(
            name="lifespan: tell of runs that failed",
            trigger=EventTrigger(
                expect={"lifespan.run.failed", "prefect.flow-run.Crashed"},
                match=flow_runs,
                posture=Posture.Reactive,
            ),
            actions=[told],
        ),
        AutomationCore(
            name="lifespan: tell of cost drift",
            trigger=EventTrigger(expect={"lifespan.cost.drift"}, posture=Posture.Reactive),
            actions=[told],
        ),
    ]
    with get_client(sync_client=True) as client:
        for automation in automations:
            known = client.read_automations_by_name(automation.name)
            if known:
                client.update_automation(known[0].id, automation)
            else:
                client.create_automation(automation)


def _webhook_block(url: str | None) -> UUID | None:
    """The block with the webhook's address: as it is, or made anew where an address is given."""
    from prefect.blocks.webhook import Webhook

    # An address is what lets one post there, so it is kept as a secret and shown to nobody. Prefect's notification
    # blocks would write it to the server's log when the other side answers with an error.
    if url:
        headers = {"Content-Type": "application/json"}
        block = Webhook.model_validate({"url": url, "headers": headers})
        return cast(UUID, block.save(WEBHOOK, overwrite=True))
    if url is None:
        with contextlib.suppress(ValueError):  # there is none
            return cast(Webhook, Webhook.load(WEBHOOK))._block_document_id
    return None


# --- schedules -----------------------------------------------------------------------------------------------------


def schedules(home: Home) -> list[Schedule]:
    """Every schedule of our deployments."""
    connect(home)
    return [
        Schedule(
            found.slug or str(found.id),
            flow,
            _when(found.schedule),
            found.active,
            {**deployment.parameters, **found.parameters},
        )
        for flow, deployment, found in _found()
    ]


def _when(schedule: Any) -> str:
    if hasattr(schedule, "cron"):
        return f"{schedule.cron} {schedule.timezone or 'UTC'}"
    return f"every {schedule.interval}" if hasattr(schedule, "interval") else str(schedule.rrule)


def _found() -> Iterator[tuple[str, Any, Any]]:
    """Flow, deployment and schedule of all that is deployed."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for flow in FLOWS:
            try:
                deployment = client.read_deployment_by_name(f"{flow}/{NAME}")
            except ObjectNotFound:
                continue
            for schedule in deployment.schedules:
                yield flow, deployment, schedule


def add_schedule(
    home: Home,
    flow: str,
    cron: str = "",
    *,
    every: float = 0.0,
    timezone: str = "UTC",
    profile: str = "laptop",
    settings: list[str] | None = None,
    slug: str = "",
    active: bool = True,
) -> str:
    """Run a flow at the times of a cron line, or at an interval in seconds; the schedule's slug.

    Raises:
        ConfigError: an unknown flow, profile or time zone, a broken cron line, a slug that is taken, or no deployment.
    """
    from flows.config import load_config

    _check_when(cron, every)
    connect(home)
    if flow not in FLOWS:
        raise ConfigError(f"there is no flow {flow!r}; there are {', '.join(FLOWS)}")
    if bool(cron) == bool(every):
        raise ConfigError("give either a cron line or an interval in seconds")
    if any(masked_addresses(text) != text for text in settings or []):
        raise ConfigError("Prefect keeps a schedule's settings for all to read: leave passwords to the environment")
    profile = _from_anywhere(profile)
    load_config(profile, settings or [])  # reports a mistake now, not at two in the morning
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.exceptions import ObjectNotFound

    taken = {schedule.slug for schedule in schedules(home)}
    name = slug or next(n for k in range(1, len(taken) + 2) if (n := f"{flow}-{k}") not in taken)
    if name in taken:
        raise ConfigError(f"there is a schedule {name!r} already: `lifespan schedule remove {name}` first")
    when = _times(cron, every, timezone)
    created = DeploymentScheduleCreate(
        schedule=when, active=active, slug=name, parameters={"profile": profile, "settings": settings or []}
    )
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"{flow}/{NAME}")
        except ObjectNotFound:
            raise ConfigError(f"{flow}/{NAME} is not deployed: `lifespan deploy` first") from None
        client.create_deployment_schedules(deployment.id, [created])
    return name


def _check_when(cron: str, every: float) -> None:
    """Raises ConfigError for what Prefect would take for something else, or could not keep up with."""
    fields = len(cron.split())
    if cron and not cron.startswith("@") and fields != 5:
        # Prefect takes a sixth for seconds, at the end, where others have it at the beginning.
        raise ConfigError(f"--cron {cron!r} has {fields} fields; it takes five: minute, hour, day, month, weekday")
    if every and not MIN_SECONDS <= every < math.inf:
        raise ConfigError(f"--every {every:g}: takes at least {MIN_SECONDS:g} seconds, which a run needs to begin")


def _times(cron: str, every: float, timezone: str) -> Any:
    """When a schedule fires, as Prefect takes it; ConfigError for what it would refuse, or what would never fire."""
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
    from pydantic import ValidationError

    told = f"schedule {cron or every!r} in {timezone}"
    try:
        if not cron:
            return IntervalSchedule(interval=timedelta(seconds=every), timezone=timezone)
        when = CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        raise ConfigError(f"{told}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    except (OverflowError, ValueError):  # infinite, or no number
        raise ConfigError(f"{told}: takes a number of seconds") from None
    # Prefect's scheduler stumbles over a date that never comes, and then makes no runs of other schedules either.
    from prefect.server.schemas.schedules import CronSchedule as Computed

    try:
        asyncio.run(Computed(cron=cron, timezone=timezone).get_dates(1))
    except Exception:  # of the cron library that Prefect carries
        raise ConfigError(f"{told}: that date never comes") from None
    return when


def change_schedule(home: Home, slug: str, *, active: bool | None = None, remove: bool = False) -> Schedule:
    """Pause, resume or remove a schedule.

    Raises:
        ConfigError: there is none of this name.
    """
    connect(home)
    from prefect.client.orchestration import get_client

    for flow, deployment, found in _found():
        if slug in (found.slug, str(found.id)):
            with get_client(sync_client=True) as client:
                if remove:
                    client.delete_deployment_schedule(deployment.id, found.id)
                else:  # the server forgets parameters that are not sent again
                    kept = found.parameters
                    client.update_deployment_schedule(deployment.id, found.id, active=active, parameters=kept)
            return Schedule(slug, flow, _when(found.schedule), bool(active), found.parameters)
    known = ", ".join(schedule.slug for schedule in schedules(home)) or "none"
    raise ConfigError(f"there is no schedule {slug!r}; there are: {known}")
