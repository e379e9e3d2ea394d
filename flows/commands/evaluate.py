"""`lifespan evaluate score`, what saved generations are worth; and the group with `lifespan evaluate MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.command import FAILED, friendly_errors, plain_table, print_error, wide_console
from flows.commands.evaluate_task import run

if TYPE_CHECKING:
    from components.reasoning.scoring.saved import SavedFile
    from components.reasoning.scoring.scorers import Scorer
    from components.reasoning.scoring.summary import Accuracy, Cluster, Comparison, JudgedItem
    from components.statistics import Interval

MAX_SHOWN = 5
PATH = "a.b"


class _RunUnlessNamed(typer.core.TyperGroup):
    """`lifespan evaluate MODEL …` is `lifespan evaluate run MODEL …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = ["run", *args]
        return super().parse_args(ctx, args)


evaluate = typer.Typer(
    cls=_RunUnlessNamed,
    no_args_is_help=True,
    help="Answer a task with a model (`run` may be left out), or score answers that a model gave.",
)
evaluate.command()(run)


@evaluate.command()
def score(
    file: Annotated[str, typer.Argument(help="Generations: JSONL, JSON, CSV or Parquet; a file, folder or URL.")],
    scorer: Annotated[
        str,
        typer.Option(help="number, choice, text, exact, word, yes-no, math, game24 or code; auto: by the references."),
    ] = "auto",
    extract: Annotated[
        list[str] | None, typer.Option(help="Find answers by this extractor instead; repeated: else by the next.")
    ] = None,
    equal: Annotated[str, typer.Option(help="Compare answers by this equality instead.")] = "",
    marker: Annotated[
        list[str] | None, typer.Option(help="What announces an answer, in place of the usual; may be repeated.")
    ] = None,
    marker_only: Annotated[bool, typer.Option(help="A text that announces no answer has none.")] = False,
    text: Annotated[str, typer.Option(metavar=PATH, help="Field with the generations.")] = "",
    reference: Annotated[str, typer.Option(metavar=PATH, help="Field with the right answer.")] = "",
    id: Annotated[str, typer.Option(metavar="A,B", help="Fields that tell items apart, in all files alike.")] = "",
    finish: Annotated[str, typer.Option(metavar=PATH, help="Field with why a generation ended.")] = "",
    verdict: Annotated[str, typer.Option(metavar=PATH, help="Field with the file's own verdict, to compare.")] = "",
    answers: Annotated[str | None, typer.Option(help="File with the right answers.")] = None,
    answers_id: Annotated[str, typer.Option(help="Its field with the id; row: the place, from 0.")] = "",
    answers_field: Annotated[str, typer.Option(help="Its field with the right answer.")] = "",
    by: Annotated[str, typer.Option(metavar=PATH, help="Also by the groups of this field, or of each file.")] = "",
    cluster: Annotated[str, typer.Option(metavar=PATH, help="Items that share this field are not independent.")] = "",
    only: Annotated[
        list[str] | None, typer.Option(metavar="A=B", help="Only records with this value; may be repeated.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Compare with another file on the same items.")] = None,
    k: Annotated[list[int] | None, typer.Option(min=1, help="Size of a vote; may be repeated.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write a verdict a sample: .jsonl or .parquet.")] = None,
) -> None:
    """Score saved generations: fields are detected, shown, and can be given."""
    with friendly_errors():
        from components.data.files import SourceError
        from components.reasoning.scoring.fields import Fields
        from components.reasoning.scoring.saved import read_saved, with_answers
        from components.reasoning.scoring.scorers import chosen_scorer, scorer_for
        from components.reasoning.scoring.summary import column, compare, judge_item, verdict_rows

        wanted = Fields(text=text, reference=reference, id=id, finish=finish, verdict=verdict)
        if output is not None and output.suffix not in (".jsonl", ".parquet"):
            raise SourceError(f"--output {output}: take a name that ends in .jsonl or .parquet")

        def read(path: str) -> SavedFile:
            found = read_saved(path, wanted, [_condition(one) for one in only or []])
            if answers is not None:
                found = with_answers(found, answers, answers_id, answers_field)
            elif not found.fields.reference:
                raise SourceError(f"{path}: no field holds the right answers: give --reference or --answers")
            return found

        saved = read(file)
        for name, path in (("--by", by), ("--cluster", cluster)):
            if path and path != "file" and all(_absent(item.row, path) for item in saved.items):
                raise SourceError(f"{name} {path}: no record has it")
        references = [answer for item in saved.items for answer in item.references]
        try:
            rule = chosen_scorer(
                scorer_for(references) if scorer == "auto" else scorer,
                extract or (),
                equal,
                marker_only=marker_only,
                **({"markers": tuple(marker)} if marker else {}),
            )
        except ValueError as error:
            raise SourceError(str(error)) from None
        judged = [judge_item(item, rule) for item in saved.items]
        clusters = column(cluster) if cluster else None
        _show(file, saved, judged, rule, column(by) if by else None, by, clusters, k or ())
        if output is not None:
            _write(output, verdict_rows(judged, [name for name in (by, cluster) if name and name != "file"]))
        if against is not None:
            other = read(against)
            theirs = [judge_item(item, rule) for item in other.items]
            try:
                both = bool(saved.fields.id and other.fields.id)
                _show_comparison(file, against, compare(judged, theirs, both, clusters), bool(cluster))
            except ValueError as error:
                raise SourceError(f"{against}: {error}") from None
        if all(one.status == "failed" for item in judged for one in item.verdicts):
            print_error(f"{file}: nothing could be judged: {judged[0].verdicts[0].note}")
            raise typer.Exit(FAILED)


def _absent(row: Any, path: str) -> bool:
    from components.reasoning.scoring.fields import value_at

    return value_at(row, path) is None


def _condition(text: str) -> tuple[str, str]:
    """A field and its value. Raises SourceError where it is none."""
    from components.data.files import SourceError

    path, equals, value = text.partition("=")
    if not equals:
        raise SourceError(f"--only {text}: write field=value")
    return path, value


def _show(
    file: str,
    saved: SavedFile,
    judged: list[JudgedItem],
    rule: Scorer,
    group: Cluster | None,
    by: str,
    cluster: Cluster | None,
    sizes: Any,
) -> None:
    from components.reasoning.scoring.summary import (
        MAX_WITHOUT_ANSWER,
        accuracy,
        agreement,
        at_sizes,
        by_group,
        found_by,
    )

    console = wide_console(160)
    names = ("text", "reference", "id", "finish", "error", "verdict")
    taken = "; ".join(f"{name} {path}" for name in names if (path := getattr(saved.fields, name)))
    whole = accuracy(judged, cluster)
    typer.echo(f"{file}: {whole.num_items} items, {whole.num_samples} samples")
    typer.echo(f"fields ({saved.fields.layout}): {taken}")
    typer.echo(f"scorer {rule.described}")
    counts = found_by(judged)
    typer.echo(f"found by {', '.join(f'{label} {count}' for label, count in counts.items()) or 'none'}")
    announced = sum(count for label, count in counts.items() if label.startswith(("marked", "boxed")))
    if (whole_texts := counts.get("whole/1", 0)) and announced:
        typer.echo(
            f"note: {announced} texts announce their answer; {whole_texts} do not and are compared as a whole: "
            "--marker-only counts them as unparsed"
        )
    for note in saved.notes:
        typer.echo(f"note: {note}")
    for bad in saved.rejected[:MAX_SHOWN]:
        typer.echo(f"rejected: {bad.file}{f':{bad.line}' if bad.line else ''}: {bad.reason}", err=True)
    if len(saved.rejected) > MAX_SHOWN:
        typer.echo(f"rejected: {len(saved.rejected) - MAX_SHOWN} more", err=True)
    columns = ("", "items", "of all", "of parsed", "without failures", "unparsed", "truncated", "refused", "failed")
    table = plain_table(*columns, right=columns[1:])
    table.add_row("all", *_cells(whole))
    macro = None
    if group is not None:
        groups, macro = by_group(judged, group, cluster)
        for name, part in groups.items():
            table.add_row(name, *_cells(part))
    typer.echo("")
    console.print(table)
    if macro is not None:
        typer.echo(f"macro average over {by}: {interval(macro)}")
    if over := at_sizes(judged, cluster, sizes):
        votes = plain_table("k", "maj@k", "pass@k", right=("k", "maj@k", "pass@k"))
        for at in over:
            votes.add_row(str(at.k), interval(at.majority), interval(at.passed))
        typer.echo("")
        console.print(votes)
    if (same := agreement(judged)) is not None:
        typer.echo(
            f"the file's own verdicts: {same.agreed} of {same.total} agree; right here alone {same.only_ours}, "
            f"right there alone {same.only_theirs}"
        )
    if whole.without_answer > MAX_WITHOUT_ANSWER:
        typer.echo(
            f"warning: {whole.without_answer:.1%} of the samples have no answer that was found ({_lost(whole)}): "
            "the accuracy of all also measures the format and the length limit",
            err=True,
        )


def _show_comparison(file: str, against: str, found: Comparison, cluster: bool) -> None:
    typer.echo("")
    typer.echo(f"{file} minus {against}, on {found.first.num_items} items matched by {found.how}:")
    typer.echo(
        f"{interval(found.first.of_all)} minus {interval(found.second.of_all)} = {interval(found.difference)}"
        f"{_mcnemar(found.difference)}"
    )
    if found.answered is not None and (found.first.without_answer or found.second.without_answer):
        count = f"the {found.answered.n} clusters with items" if cluster else f"the {found.answered.n} items"
        typer.echo(f"on {count} that both answered: {interval(found.answered)}{_mcnemar(found.answered)}")
    if found.only_first or found.only_second:
        typer.echo(f"left out: {found.only_first} items of the first file alone, {found.only_second} of the second")
    if found.unlike:
        typer.echo(
            f"warning: {found.first.without_answer:.1%} of the samples have no answer in the first file and "
            f"{found.second.without_answer:.1%} in the second: the difference is of answering, too",
            err=True,
        )


def _mcnemar(difference: Interval) -> str:
    """The exact test, where there is one."""
    from components.statistics import PairedDifference

    if not isinstance(difference, PairedDifference):
        return ""
    return f"; McNemar: {difference.only_a} against {difference.only_b}, p = {difference.p_value:.3g}"


def _cells(part: Accuracy) -> list[str]:
    counts = [str(part.statuses[s]) for s in ("unparsed", "truncated", "refused", "failed")]
    shown = [interval(one) if one else "–" for one in (part.of_all, part.of_parsed, part.without_failures)]
    return [str(part.num_items), *shown, *counts]


def _lost(part: Accuracy) -> str:
    return f"{part.statuses['unparsed']} unparsed, {part.statuses['truncated']} truncated"


def interval(one: Interval) -> str:
    """In percent with its 95% interval: "43.5% [40.1, 46.9]"."""
    return f"{one.value:.1%} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _write(output: Path, rows: list[dict[str, object]]) -> None:
    """All of it or nothing."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from storage.durable import replacing

    with replacing(output) as temporary:
        if output.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd")
        else:
            with temporary.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    typer.echo(f"{len(rows)} verdicts in {output}")
