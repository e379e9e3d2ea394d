"""`lifespan prices`: what hardware and hosted models cost, which prices are old, and taking in others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import BAD_INPUT, FAILED, friendly_errors, plain_table, wide_console

if TYPE_CHECKING:
    from components.cost.prices import ApiPrice

SHOWN = 20  # refused rows that are shown one by one
prices = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Prices of hardware and hosted models: list, check, import."
)


@prices.command("list")
def list_prices(
    hardware: Annotated[str, typer.Option(help="Only of this device, as in the table `hardware`.")] = "",
    provider: Annotated[str, typer.Option(help="Only of providers whose name contains this.")] = "",
    model: Annotated[str, typer.Option(help="Hosted models whose name contains this, instead of hardware.")] = "",
) -> None:
    """List prices: the catalogue's and those that this home imported, the newest first."""
    with friendly_errors():
        from components.cost.hardware import find_hardware
        from flows.runs.prices import home_api_prices, home_prices
        from flows.settings import ConfigError
        from storage.home import Home

        home = Home.from_env()
        if model:
            _list_models(home_api_prices(home), model, provider)
            return
        if hardware:
            try:
                find_hardware(hardware)
            except ValueError as error:
                raise ConfigError(f"--hardware: {error}") from None
        found = [
            price
            for price in home_prices(home)
            if hardware in ("", price.hardware) and provider.casefold() in price.provider.casefold()
        ]
        if not found:
            raise ConfigError(f"no prices of {hardware or 'any device'} at {provider or 'any provider'}")
        table = plain_table(
            "hardware", "$/h", "range", "commitment", "provider", "region", "date", "source", right=("$/h",)
        )
        found.sort(key=lambda one: (one.date, -one.usd_per_hour), reverse=True)
        found.sort(key=lambda one: one.hardware)
        for price in found:
            asked = f"{price.usd_low:g} to {price.usd_high:g}" if price.usd_low is not None else ""
            words = (price.commitment, price.provider, price.region, price.date, price.source)
            table.add_row(price.hardware, f"{price.usd_per_hour:.4g}", asked, *words)
        wide_console().print(table)
        if not hardware and (count := len(home_api_prices(home))):
            typer.echo(f"{count} prices of hosted models: --model NAME")


def _list_models(known: tuple[ApiPrice, ...], model: str, provider: str) -> None:
    from flows.settings import ConfigError

    found = [
        price
        for price in known
        if model.casefold() in price.model.casefold() and provider.casefold() in price.provider.casefold()
    ]
    if not found:
        raise ConfigError(f"no prices of a hosted model {model!r}: `lifespan prices import FILE` takes litellm's file")
    numbers = ("$/M read", "$/M generated", "$/M cached")
    table = plain_table("model", *numbers, "provider", "date", right=numbers)
    for price in sorted(found, key=lambda one: (one.usd_per_million_output, one.model)):
        cached = "" if price.usd_per_million_cached is None else f"{price.usd_per_million_cached:.4g}"
        dollars = (f"{price.usd_per_million_input:.4g}", f"{price.usd_per_million_output:.4g}", cached)
        table.add_row(price.model, *dollars, price.provider, price.date)
    wide_console().print(table)


@prices.command()
def check(
    days: Annotated[int, typer.Option(min=1, help="A price is old after so many days.")] = 180,
) -> None:
    """Name prices that are old or have no source; exit code 1 where there are any."""
    with friendly_errors():
        import datetime

        from components.cost.prices import complaints
        from flows.runs.prices import home_prices
        from storage.home import Home

        found = home_prices(Home.from_env())
        faults = complaints(found, datetime.date.today(), days)
        for price, why in faults:
            typer.echo(f"{price.hardware}, {price.provider}, {price.commitment}, {price.date}: {why}")
        typer.echo(f"{len(found)} prices, {len({id(price) for price, _ in faults})} of them old or without a source")
        if faults:
            raise typer.Exit(FAILED)


@prices.command("import")
def import_prices(
    file: Annotated[Path, typer.Argument(help="Your own CSV, a SkyPilot catalogue (vms.csv), or litellm's JSON.")],
    date: Annotated[str, typer.Option(help="The day of prices that have none in the file, such as 2026-03-21.")] = "",
    provider: Annotated[str, typer.Option(help="Whose prices a SkyPilot catalogue has; by default its folder.")] = "",
) -> None:
    """Take prices of a file into this home's tables; rows that cannot be relied on are refused one by one."""
    with friendly_errors():
        from components.cost.entries import CatalogueError
        from components.cost.price_files import read_prices
        from flows.runs.prices import home_prices, keep_prices
        from flows.settings import ConfigError
        from storage.home import Home

        home = Home.from_env()
        try:
            found = read_prices(file, home_prices(home), date, provider)
        except CatalogueError as error:
            raise ConfigError(str(error)) from None
        keep_prices(home, found.prices, found.api_prices)
        for one in found.refused[:SHOWN]:
            typer.echo(f"refused: {one.where}: {one.reason}")
        if len(found.refused) > SHOWN:
            typer.echo(f"refused: {len(found.refused) - SHOWN} more")
        for what, count in sorted(found.left_out.items()):
            typer.echo(f"left out: {count} {what}")
        taken = len(found.prices) + len(found.api_prices)
        typer.echo(f"{found.layout}: {taken} prices taken, {len(found.refused)} refused")
        if not taken:
            raise typer.Exit(BAD_INPUT)
