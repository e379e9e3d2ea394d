"""The command line, `lifespan`: every command with its name. The commands themselves are the modules beside this one.

They import everything heavy when they run, so that `lifespan --help` and mistakes answer at once. Exit codes: 0 done,
1 failed, 2 bad input, 3 waits for people, 130 interrupted.
"""

from __future__ import annotations

import typer

from flows.commands.advise import advise
from flows.commands.annotate import annotate
from flows.commands.chat import chat
from flows.commands.compact import compact
from flows.commands.costs import costs
from flows.commands.deploy import deploy
from flows.commands.doctor import doctor
from flows.commands.down import down
from flows.commands.evaluate import evaluate
from flows.commands.export_model import export_model
from flows.commands.gc import gc
from flows.commands.import_model import import_model
from flows.commands.plan import plan
from flows.commands.preferences import preferences
from flows.commands.prepare import prepare
from flows.commands.prices import prices
from flows.commands.query import query
from flows.commands.replicate import replicate
from flows.commands.run import run
from flows.commands.scale import scale
from flows.commands.schedule import schedule
from flows.commands.serve import serve
from flows.commands.sql import sql
from flows.commands.status import status
from flows.commands.sync import sync
from flows.commands.ui import ui
from flows.commands.up import up

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # a help text says what it says, brackets and all
    pretty_exceptions_enable=False,
    help="Raise a language model from raw text to reasoning, and account for its whole life.",
)

app.command("run")(run)
app.command("plan")(plan)
app.command("prepare")(prepare)
app.command("replicate")(replicate)
app.command("status")(status)
app.command("query")(query)
app.command("sql")(sql)
app.command("advise")(advise)
app.add_typer(costs, name="costs")
app.add_typer(prices, name="prices")
app.add_typer(scale, name="scale")
app.command("ui")(ui)
app.command("up")(up)
app.command("down")(down)
app.command("deploy")(deploy)
app.add_typer(schedule, name="schedule")
app.add_typer(annotate, name="annotate")
app.add_typer(preferences, name="preferences")
app.add_typer(evaluate, name="evaluate")
app.command("serve")(serve)
app.command("chat")(chat)
app.command("export")(export_model)
app.command("import")(import_model)
app.command("doctor")(doctor)
app.command("gc")(gc)
app.command("compact")(compact)
app.command("sync")(sync)


if __name__ == "__main__":
    app()
