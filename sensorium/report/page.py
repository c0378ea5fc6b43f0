"""The report as one self-contained HTML file: figures within, no script, nothing fetched."""

import base64
import math
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path

from sensorium.mice import FRAMES_PER_SECOND, short_name
from sensorium.report.material import ALL, Material

_CAPTIONS: Mapping[str, tuple[str, str]] = {
    "scores": (
        "Scores by mouse",
        (
            "Each trial is predicted by the fold that did not learn from it. Points are means over neurons, lines "
            "the 95 % bootstrap interval over neurons. The ceiling is the correlation of the noiseless rate itself "
            "with the noisy responses, where it is known."
        ),
    ),
    "neurons": ("Distribution over neurons", "All mice together, with the mean of each."),
    "traces": (
        "True and predicted responses",
        (
            "{trace_title}. Neurons are those at the 95th, 50th and 5th percentile of correlation. Frames before "
            "{first_second:.1f} s, pale, are not scored."
        ),
    ),
    "training": ("Learning curves", "Means over the folds, and the range of the folds."),
    "folds": (
        "Folds",
        "Trials of one video share a fold. {leak} pairs of near-identical trials lie in different folds.",
    ),
}

_CEILING = "ceiling"
_OTHER_METRICS: Mapping[str, str] = {
    "published_variant": "as the published solution counts",
    "correlation_to_average": "correlation to average",
}

_TABLE_CAPTION = (
    "Single-trial correlation out of fold: responses normalised, all trials in a row, the mean over neurons. The "
    "last columns, over all mice: the published solution's variant, not normalised, the mean over mice; and the "
    "correlation of responses and predictions that are averaged over the repeats of a video first."
)

_STYLE = """
:root { color-scheme: light; }
body { max-width: 52rem; margin: 2.5rem auto; padding: 0 1.2rem; color: #222; background: #fff;
       font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; padding-top: .6rem; border-top: 1px solid #ddd; }
p.lead { color: #555; margin-top: 0; }
figure { margin: .6rem 0 0; } img { width: 100%; height: auto; }
figcaption { color: #555; font-size: .92rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e6e6e6; text-align: right; }
th:first-child, td:first-child { text-align: left; font-weight: 400; }
th { vertical-align: bottom; } td:nth-child(2) { font-weight: 600; }
div.scroll { overflow-x: auto; } div.scroll table { font-size: .8rem; }
div.scroll th, div.scroll td { padding: .3rem .25rem; }
td.wide { text-align: left; word-break: break-word;
          font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .82rem; }
@media print { body { max-width: none; margin: 0; font-size: 10.5pt; } h2, figure, tr { break-inside: avoid; }
               h2 { break-after: avoid; } }
"""


def write_page(path: Path, material: Material, figures: Mapping[str, Path]) -> None:
    """Write the page.

    Args:
        path: where to write.
        material: numbers and facts.
        figures: PNG file by name.
    """
    path.write_text(page("results", _lines(material, figures)), encoding="utf-8")


def page(title: str, body: Iterable[str]) -> str:
    """A page of some lines of HTML: no script, nothing fetched."""
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"<title>Sensorium: {escape(title)}</title><style>{_STYLE}</style></head><body>"
    return "\n".join(["<!doctype html>", f'<html lang="en"><head>{meta}', head, *body]) + "</body></html>\n"


def image(title: str, png: bytes) -> str:
    """A picture as part of a page."""
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


def _lines(material: Material, figures: Mapping[str, Path]) -> Iterator[str]:
    yield "<h1>How well is mouse visual cortex predicted?</h1>"
    yield f'<p class="lead">{escape(_lead(material))}</p>'
    yield from _score_table(material)
    words = {
        "trace_title": material.trace_title,
        "first_second": material.first_frame / FRAMES_PER_SECOND,
        "leak": material.folds["near_identical_pairs_in_different_folds"][material.folds["grouping"]],
    }
    for name, (title, caption) in _CAPTIONS.items():
        yield f"<h2>{escape(title)}</h2>"
        yield f"<figure>{image(title, figures[name].read_bytes())}"
        yield f"<figcaption>{escape(caption.format(**words))}</figcaption></figure>"
    yield "<h2>What made these results</h2><table>"
    for name, value in material.facts:
        yield f'<tr><td>{escape(name)}</td><td class="wide">{escape(value)}</td></tr>'
    yield "</table>"


def _lead(material: Material) -> str:
    scores = material.pooled()[ALL]
    best = max((source for source in material.sources if source != _CEILING), key=lambda source: scores[source])
    sentence = f"{best} reaches a single-trial correlation of {scores[best]:.3f}"
    ceiling = scores.get(_CEILING)
    return f"{sentence}, where the noise allows {ceiling:.3f}." if ceiling is not None else f"{sentence}."


def _score_table(material: Material) -> Iterator[str]:
    """One row per source: all neurons, each mouse, and the other metrics over all mice."""
    table = material.pooled()
    columns = {"all neurons": table.get(ALL)} | {short_name(mouse): table[mouse] for mouse in material.mice}
    columns |= {name: material.pooled(metric).get(ALL) for metric, name in _OTHER_METRICS.items()}
    heads = "".join(f"<th>{escape(name).replace('-', '-<wbr>')}</th>" for name in columns)
    yield f"<div class=scroll><table><tr><th></th>{heads}</tr>"
    for source in material.sources:
        cells = "".join(_cell(None if column is None else column.get(source)) for column in columns.values())
        yield f"<tr><th>{escape(source)}</th>{cells}</tr>"
    yield f"</table></div><p>{_TABLE_CAPTION}</p>"


def _cell(value: float | None) -> str:
    return "<td>-</td>" if value is None or math.isnan(value) else f"<td>{value:.3f}</td>"
