"""The page and the terminal: complete, self-contained, safe, and honest about what is missing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from rich.console import Console
from written_life import Life, RealRows

from dashboards.blocks import Table
from dashboards.claims import Earlier, Training
from dashboards.facts.chosen import ChosenSetting
from dashboards.facts.effects import Effect
from dashboards.html import queries, render_html
from dashboards.report import collect, write_report
from dashboards.report_model import LifeReport
from dashboards.terminal import Fitted, column_widths, render_terminal
from storage.home import Home
from storage.queries import query

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Ids, references and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.references: set[str] = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(report: LifeReport) -> str:
    return render_html(report)


def test_the_page_stands_alone(page: str) -> None:
    assert "://" not in page
    assert not re.search(r"<(link|img|iframe|object)\b|@import|src=|javascript:", page)
    assert re.findall(r"url\((?!#)", page) == []
    assert len(page.encode()) < 1_000_000


def test_the_one_script_is_the_one_that_the_policy_names(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert page.count("<script") == 1
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    pinned = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src {pinned}"


def test_headlines_lead_to_the_part_that_tells_more_and_headings_to_themselves(report: LifeReport, page: str) -> None:
    ten = page[page.index('id="headlines"') : page.index("</ol>")]
    leads = re.findall(r'<strong><a href="#([a-z]+)">', ten)
    assert leads == [report.section_of[effect.slug] for effect in report.headlines]
    for section in report.sections:
        assert f'<section id="{section.slug}"><h2><a class="anchor" href="#{section.slug}">' in page


def test_marks_of_figures_say_their_values(page: str) -> None:
    titles = [html.unescape(one) for one in re.findall(r"<title>([^<]*)</title></(?:use|path)>", page)]
    assert len(titles) > 100
    assert any(re.fullmatch(r"chain of thought: \$[\d.]+, [\d.]+% \[[\d.]+%, [\d.]+%\]", one) for one in titles)


def test_ids_are_unique_over_all_figures_and_every_reference_leads_somewhere(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert [name for name, times in Counter(parsed.ids).items() if times > 1] == []
    assert parsed.references <= set(parsed.ids)
    assert parsed.tags["svg"] >= 20


def test_figures_take_their_colours_from_the_theme(page: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", figures)) == set()
    defined = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", page)) <= defined


def test_a_command_in_a_sentence_is_shown_as_code(page: str) -> None:
    assert "<code>lifespan run remedies</code>" in page
    for sentence in re.findall('<p class="meaning">(.*?)</p>', page):
        assert "`" not in sentence


@pytest.mark.parametrize("bad", ["<script>alert('x')</script>&\"<b>", 'x" onload="alert(1)', "{{ 7 * 7 }}{% raw %}"])
def test_text_of_models_and_users_is_shown_not_run(tmp_path, real: RealRows, bad: str) -> None:
    """Wherever a run takes a name or a text from outside: the page has it as text, letter by letter."""
    life = Life(Home(tmp_path), real, name=bad)
    sample = {"prompt": bad, "completion": bad, "scores_json": {bad: 1}}
    life.stage("pretrain", 1, {"losses_by_source": {bad: 1.0}, "loss": 1.0})
    funnel = [{"source": bad, "step": bad, "documents": 1, "bytes": 9}]
    life.stage("prepare_corpus", 1, {"funnel": funnel}, quarantine=[{"reason": bad}])
    alarm = {"kl_coef": 0.1, "alarm": True, "alarm_reason": bad}
    life.stage(f"ppo[kl_coef={bad}]", 1, alarm, samples=[sample])
    life.stage(f"experts[{bad}]", status="failed", reason=bad)
    answers = [
        row for strategy in ("direct", "cot", "adaptive") for row in life.answers("chains", bad, strategy, 0.5, 9)
    ]
    life.stage("evaluate_reasoning[sft]", evals=answers)
    life.end()
    text = render_html(collect(life.home))
    page = Page(text)
    assert page.open == []
    assert page.tags["script"] == 1  # our own
    assert not [name for name in page.attributes if name.startswith("on")]
    assert page.text.count(bad) >= 12


def _small(life) -> Home:
    curve = life.curve("loss", 20, lambda x: 2 - x)
    life.stage("pretrain", 1, {"losses_by_source": {"a": 1.0}}, metrics=curve)
    life.end()
    return life.home


def test_the_same_run_gives_the_same_page(life) -> None:
    report = collect(_small(life))
    assert render_html(report) == render_html(report)


def test_an_empty_run_says_what_is_missing_in_page_and_terminal(life) -> None:
    life.end()
    report = collect(life.home)
    text = render_html(report)
    assert "<svg" not in text
    assert text.count('class="missing"') == 14
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_terminal(report))
    shown = console.export_text()
    assert shown.count("is missing: no stage of this part is in this run") == 13
    assert shown.count("not measured") == 10


def test_the_terminal_leads_with_ten_lines_and_fits_its_width(report: LifeReport) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_terminal(report))
    shown = console.export_text()
    ten = " ".join(shown.split("Data and tokenizer")[0].split())
    for effect in report.headlines:
        assert effect.here in ten
    assert report.headlines[0].difference in ten  # an interval is no markup
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_a_table_too_wide_for_the_terminal_leaves_out_last_columns_and_names_them() -> None:
    table = Table(
        "Runs", ("variant", "much seen tokens", "loss, nats", "last"), "<>><", (("dense", "12", "1.264 [1, 2]", "x"),)
    )
    assert column_widths(table, 80) == [7, 16, 12, 4]  # as wide as they want
    assert column_widths(table, 41) == [7, 6, 12, 4]  # headings in more lines
    assert column_widths(table, 40) == [7, 12, 12]
    assert column_widths(table, 3) == [7]  # never none
    console = Console(width=42, record=True, file=io.StringIO())
    console.print(Fitted(table, longest=14))
    shown = console.export_text()
    assert "1.264 [1, 2]" in shown and "in the page: last" in shown


def test_the_queries_that_the_page_offers_run(home: Home, page: str) -> None:
    for _, sql in queries("run-1"):
        assert query(home, sql).num_rows > 0
    hostile = "'; DROP TABLE runs --"
    assert all(query(home, sql).num_rows == 0 for _, sql in queries(hostile))


def test_a_report_is_written_whole(life, tmp_path) -> None:
    path = write_report(_small(life), "run-1", tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8").endswith("</body></html>\n")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_one_life_speaks_of_one_training_and_tells_what_other_seeds_said(home: Home, report: LifeReport) -> None:
    earlier = {"grpo": Earlier((1, 2, 3, 4), (1, 3, 4)), "ppo_gain": Earlier((1,), ())}
    told = dataclasses.replace(report, training=Training(7, "s", "c"), earlier=earlier)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render_terminal(told))
    page = Page(render_html(told)).text
    for shown in (" ".join(console.export_text().split()), " ".join(page.split())):
        assert "One training, seed 7." in shown and "what seeds 1, 2, 3, 4 said before" in shown
        assert shown.count("seen in 3 of 4 earlier trainings: seeds 1, 3, 4") == 2  # in ten lines, and in its part
        assert "seen in 0 of 1 earlier training: not in seed 1" in shown
        for effect in told.effects.values():
            assert effect.here in shown
            assert effect.verdict == "measured" or effect.here.startswith("In this training, ")
    alone = " ".join(Page(render_html(report)).text.split())
    assert "This home holds no other: lifespan replicate laptop --seeds 5 trains with further seeds." in alone
    assert "earlier training" not in alone


@pytest.mark.parametrize(
    ("title", "here"),
    [
        ("Chain of thought beats", "In this training, chain of thought beats"),
        ("A vote beats", "In this training, a vote beats"),
        ("GRPO raises", "In this training, GRPO raises"),
        ("Tree of Thought beats", "In this training, Tree of Thought beats"),
    ],
)
def test_a_title_is_lowered_unless_it_begins_with_a_name(title: str, here: str) -> None:
    assert Effect("x", title, "seen").here == here


def test_settings_chosen_for_effect_stand_in_page_and_terminal(report: LifeReport) -> None:
    chosen = (ChosenSetting("ppo.num_iterations", "30", "after 20 nothing has <happened>"),)
    told = dataclasses.replace(report, chosen=chosen)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render_terminal(told))
    for shown in (console.export_text(), Page(render_html(told)).text):
        assert "Settings that were chosen so that effects show" in shown
        assert "ppo.num_iterations" in shown and "after 20 nothing has <happened>" in shown
    assert "Settings that were chosen" not in render_html(report)
