"""The page of an experiment in silico: one self-contained HTML file."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from sensorium.report.page import image, page

_ROWS = 40
"""Neurons that the page lists; the Parquet file has all of them."""


def experiment_page(
    title: str,
    lead: str,
    images: Sequence[tuple[str, str, bytes]],
    summary: pd.DataFrame,
    facts: Mapping[str, str],
) -> str:
    """The page as HTML.

    Args:
        title: its heading.
        lead: its first sentence.
        images: title, caption and PNG file of each figure.
        summary: a row per neuron; the first ones are shown.
        facts: what made the results, name and value.
    """
    return page(title, _lines(title, lead, images, summary, facts))


def _lines(
    title: str,
    lead: str,
    images: Sequence[tuple[str, str, bytes]],
    summary: pd.DataFrame,
    facts: Mapping[str, str],
) -> Iterator[str]:
    yield f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
    for name, caption, png in images:
        yield f"<h2>{escape(name)}</h2><figure>{image(name, png)}<figcaption>{escape(caption)}</figcaption></figure>"
    heads = "".join(f"<th>{escape(str(name).replace('_', ' '))}</th>" for name in summary.columns)
    yield f"<h2>Neurons</h2><div class=scroll><table><tr>{heads}</tr>"
    for row in summary.head(_ROWS).itertuples(index=False):
        yield f"<tr>{''.join(f'<td>{escape(_text(value))}</td>' for value in row)}</tr>"
    more = len(summary) - _ROWS
    yield "</table></div>" + (f"<p>And {more} more rows in the Parquet file.</p>" if more > 0 else "")
    yield "<h2>What made these results</h2><table>"
    for name, value in facts.items():
        yield f'<tr><td>{escape(name)}</td><td class="wide">{escape(value)}</td></tr>'
    yield "</table>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "-" if pd.isna(value) else f"{value:.4g}"
    return str(value)
