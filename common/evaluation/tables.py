"""Tables of an evaluation for a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.evaluation.bootstrap import Estimate
from common.evaluation.report import Report


def print_tables(console: Console, report: Report) -> None:
    """Prints scores, then differences."""
    scores = Table("asked", "clips", "WAR", "UAR", "exact", title="in %, with 95 % intervals")
    for a in report.assessments:
        intervals = map(_interval, (a.normalised.war, a.normalised.uar))
        exact = f"{100 * a.exact.war.value:.1f}"
        scores.add_row(Text(f"{a.dataset} {a.condition}"), str(a.num_clips), *intervals, exact)
    console.print(scores)
    differences = Table("asked", "minus", "WAR", "p", "UAR", "p", title="differences on the same clips, in %")
    for c in (*report.contributions, *report.comparisons):
        names = (Text(f"{c.dataset} {c.condition}"), Text(c.against))
        difference = c.difference
        values = (
            _signed(difference.war),
            f"{difference.mcnemar_p:.2g}",
            _signed(difference.uar),
            f"{difference.uar_p:.2g}",
        )
        differences.add_row(*names, *values)
    if differences.rows:
        console.print(differences)


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}-{100 * estimate.high:.1f}]"


def _signed(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f}"
