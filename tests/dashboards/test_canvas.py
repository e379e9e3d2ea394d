"""A panel uses its paper: nothing is cut off, little is left empty."""

from __future__ import annotations

import pytest

from dashboards.figures.canvas import panel


@pytest.mark.parametrize("names", [["a", "b"], ["a rather long name of a source", "b"]])
@pytest.mark.parametrize("legend_below", [False, True])
def test_labels_and_legend_are_within_the_paper(names: list[str], legend_below: bool) -> None:
    with panel("p", "Title", "an axis", "another") as drawn:
        drawn.axes.barh(names, [1.0, 2.0], label="bars")
        if legend_below:
            drawn.axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    assert drawn.svg.startswith("<svg")
    taken, paper = drawn.axes.get_tightbbox(), drawn.axes.figure.bbox
    assert taken is not None
    gaps = (taken.x0, taken.y0, paper.width - taken.x1, paper.height - taken.y1)
    assert all(0 <= gap <= 10 for gap in gaps), gaps
