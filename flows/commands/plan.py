"""`lifespan plan`: which stages are cached, and why the others will run."""

from __future__ import annotations

from flows.commands.command import Only, Overrides, Profile, friendly_errors, plain_table, wide_console


def plan(profile: Profile = "laptop", overrides: Overrides = None, only: Only = None) -> None:
    """Show for every stage whether it is cached, or why it will run."""
    with friendly_errors():
        from rich.text import Text

        from flows.config import load_config
        from flows.engine.plan import plan as make_plan
        from flows.engine.plan import totals
        from flows.lifecycle import life
        from storage.home import Home

        home = Home.from_env()
        steps = make_plan(life(load_config(profile, overrides or []), home, only), home)
        table = plain_table("part", "stage", "", "because")
        for column in table.columns[:2]:
            column.no_wrap = True
        group = ""
        for step in steps:
            state = Text("cached", "blue") if step.cached else Text("will run", "yellow")
            shown = step.group if step.group != group else ""
            table.add_row(shown, Text(step.label), state, Text("\n".join(step.reasons)))
            group = step.group
        console = wide_console()
        console.print(table)
        console.print(", ".join(f"{n} {what}" for what, n in totals(steps).items()), highlight=False)
