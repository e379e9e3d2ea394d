"""The environment in which Prefect, MLflow and the hub clients send no telemetry and stay on this machine.

`apply` must run before any of them is imported, because they read their settings once. Variables that the user has set
take precedence, so a team with its own Prefect server or tracking server keeps it.
"""

from __future__ import annotations

import os
from pathlib import Path

from storage.sqlite_url import sqlite_url

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "WS_PROXY", "WSS_PROXY", "SOCKS_PROXY")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
QUIET = {
    "DO_NOT_TRACK": "1",
    # Prefect
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_LEVEL": "ERROR",  # its console lines would break the live view; what matters goes to our log
    "PREFECT_LOGGING_TO_API_ENABLED": "false",  # 20,000 lines sent through the API take 5 s
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",  # its 20 s are too short for a first start
    # SQLite stalled for up to 65 s behind a burst of task runs with the default batches; 8 s with these.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    # MLflow
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # our models need no pickle
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight idle processes, 0.8 GB, for features that we do not use
    # Hugging Face
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Others that a dependency may bring
    "RAY_USAGE_STATS_ENABLED": "0",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
    "WANDB_MODE": "disabled",
}


def settings(home: str | Path, *, hub: bool | None = False) -> dict[str, str]:
    """The environment variables for a home, whatever is already set.

    `home` may be an object-store URL; Prefect's own files then lie in `.lifespan/` of the current folder.
    `hub=True` leaves the Hugging Face hub reachable (a data source needs it); None leaves the decision for later.
    """
    local = Path(".lifespan") if "://" in str(home) else Path(home)
    prefect_home = local.resolve() / "prefect"
    values = {
        **QUIET,
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_PROFILES_PATH": str(prefect_home / "profiles.toml"),
    }
    if "?" in str(prefect_home):  # at which the address that Prefect makes of it would end
        values["PREFECT_API_DATABASE_CONNECTION_URL"] = sqlite_url(prefect_home / "prefect.db", "aiosqlite")
    if hub is False:
        values |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return values


def apply(home: str | Path, *, hub: bool | None = False) -> None:
    """Set the variables that are not set yet, for this process and its children."""
    for name, value in settings(home, hub=hub).items():
        os.environ.setdefault(name, value)
    past_proxy(*LOOPBACK_NAMES)


def past_proxy(*hosts: str) -> None:
    """Let this process and its children reach these hosts directly where the environment names a proxy.

    Prefect's and MLflow's clients would send requests to servers of this machine through HTTP_PROXY, too. What the user
    excludes already stays.
    """
    given = {name: os.environ[name] for proxy in PROXIES for name in (proxy, proxy.lower()) if os.environ.get(name)}
    for name, proxy in given.items():
        if proxy.startswith("socks://"):  # as desktops write it; httpx would refuse to start
            os.environ[name] = proxy.replace("socks://", "socks5://", 1)
    if not given:
        return
    excluded = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    held = [host.strip() for host in excluded.split(",") if host.strip()]
    if "*" not in held:
        both = ",".join(dict.fromkeys([*held, *hosts]))
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = both
