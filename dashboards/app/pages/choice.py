"""Which run a page speaks of: the one in its address, or the newest."""

from __future__ import annotations

from dashboards.app.address import Address
from dashboards.app.rows import newest, run_names
from dashboards.app.view import Control
from storage.home import Home


def chosen_run(home: Home, address: Address, name: str = "run", label: str = "run") -> tuple[str | None, Control]:
    """The run's id, None where the home has none, and the control that chooses it."""
    known = run_names(home)
    run = address.text(name) or newest(home)
    options = known if run is None or any(run == one for one, _ in known) else ((run, run), *known)
    if run:
        address.used[name] = run
    return run, Control(name, label, "select", run or "", options)
