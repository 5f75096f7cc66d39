"""The plots of the board: Vega-Lite specs made with Altair, and the script that draws them.

Specs are compiled to Vega here, so that a page needs no Vega-Lite: its script is a third smaller. They hold no data. A page fills the named
datasets, whose fields stand at each spec's function, and the signals ``*_title``, ``*_ticks`` and ``*_reverse``. Colours are the page's CSS variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import altair as alt
import vl_convert

Rows = list[dict[str, Any]]
Spec = dict[str, Any]

TEXT, MUTED, LINE, ACCENT, WARN, BACKGROUND = (
    f"var(--{name})" for name in ("text", "muted", "line", "accent", "warn", "bg")
)
FRONT, COMPARED, NOT_COMPARED = "on the front", "compared", "not compared"
"""Whether a point's cost may be compared with the others', and none of these is as cheap and as good."""
_KINDS = {"submission": "circle", "reconstruction": "triangle-up", "floor": "square"}
_PHASES = {"pretrain": 1.0, "adapt": 0.45, "predict": 0.08}
_SERIES = (
    (ACCENT, [1, 0], "circle"),
    (WARN, [7, 3], "diamond"),
    (TEXT, [2, 2], "square"),
    (ACCENT, [9, 3, 2, 3], "triangle-up"),
    (WARN, [3, 3], "triangle-down"),
    (TEXT, [12, 4], "cross"),
    (MUTED, [1, 0], "circle"),
)
"""Colour, dash and shape of a series by its number; the last is any series beyond the first six."""
_ANCHORS = ("bottom-right", "top-left", "left", "bottom", "top", "top-right", "right")
"""Where a name may stand; first where the stair, which leads to the right and up, does not cross it."""
_FONT = "system-ui, sans-serif"
_SHORT_NUMBER = "datum.value < 1 ? format(datum.value, '.3~g') : format(datum.value, '.3~s')"
_LATE = "@"
_LICENCE = (
    "/* Vega {vega} with D3, bundled by vl-convert {bundler}; copyright and terms in vega-license.txt. */\n"
)


@cache
def chart_specs() -> dict[str, Spec]:
    """Vega specs by name, without data, as wide as their container."""
    charts = {
        "pareto": pareto(),
        "dots": dots(),
        "phases": _phases(),
        "curves": _curves(),
        "slices": _slices(),
        "per_task_pair": _per_task_pair(),
    }
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    specs = {name: compiled(chart.properties(autosize=fit)) for name, chart in charts.items()}
    specs["pareto"]["marks"].append(point_labels(in_browser=True))
    return specs


@cache
def vega_bundle() -> str:
    """Vega in one script, as the global ``vega``; it loads nothing."""
    vega = vl_convert.get_vega_version()
    # The address names a module inside of vl-convert, which loads no other; its own name ``vega`` is bound to null.
    snippet = f'import * as all from "https://cdn.jsdelivr.net/npm/vega@{vega}/+esm"; window.vega = {{View: all.View, parse: all.parse}};'
    script: str = vl_convert.javascript_bundle(snippet)
    return _LICENCE.format(vega=vega, bundler=version("vl-convert-python")) + script


def pareto() -> alt.LayerChart:
    """``points``: name, kind, state, cost, value, lo, hi, cost_text, value_text; ``front``: cost, value, from cheap to costly.

    The front is a stair: nothing better is known until the next point's cost.
    """
    x = alt.X(
        "cost:Q",
        scale=alt.Scale(type="log", nice=False, padding=16, reverse=alt.expr("x_reverse")),
        axis=alt.Axis(title=_late("x_title"), labelExpr=_SHORT_NUMBER, values=alt.expr("x_ticks")),
    )
    y = alt.Y(
        "value:Q",
        scale=alt.Scale(zero=False, nice=False, padding=20, reverse=alt.expr("y_reverse")),
        axis=alt.Axis(title=_late("y_title"), tickCount=6),
    )
    stair = (
        alt.Chart(alt.NamedData("front"), name="stair")
        .mark_line(interpolate="step-after", color=ACCENT, strokeWidth=1.5, tooltip=None)
        .encode(x=x, y=y, order=alt.Order("cost:Q"))
    )
    base = alt.Chart(alt.NamedData("points"))
    interval = (
        base.transform_filter("isValid(datum.lo)")
        .mark_rule(color=MUTED, opacity=0.4, aria=False)
        .encode(x=x, y=alt.Y("lo:Q"), y2="hi:Q")
    )
    points = (
        base.properties(name="points")
        .mark_point(size=60, opacity=1, strokeWidth=1.3)
        .encode(
            x=x,
            y=y,
            fill=_fixed(alt.Fill, "state", {FRONT: ACCENT, COMPARED: MUTED, NOT_COMPARED: BACKGROUND}),
            stroke=_fixed(alt.Stroke, "state", {FRONT: ACCENT, COMPARED: MUTED, NOT_COMPARED: MUTED}),
            shape=_fixed(alt.Shape, "kind", _KINDS),
            tooltip=_tooltip(
                name="submission", kind="kind", value_text="quality", cost_text="cost", state="cost"
            ),
        )
    )
    late = [
        alt.param(name=name, value=[] if name == "x_ticks" else False)
        for name in ("x_ticks", "x_reverse", "y_reverse")
    ]
    return alt.LayerChart(layer=[stair, interval, points]).properties(width=600, height=380).add_params(*late)


def point_labels(*, in_browser: bool) -> Spec:
    """Names beside the points, those of the front first, left out where there is no room. Vega-Lite has no such mark."""
    first = f"datum.datum.state === '{FRONT}'"
    return {
        "type": "text",
        "from": {"data": "points_marks"},
        "interactive": False,
        "encode": {
            "enter": {
                "text": {"field": "datum.name"},
                "font": {"value": _FONT},
                "fontSize": {"value": 11},
                "fontWeight": [{"test": first, "value": "bold"}, {"value": "normal"}],
                "fill": [{"test": first, "value": TEXT}, {"value": MUTED}],
            }
        },
        "transform": [
            {
                "type": "label",
                "size": {"signal": "[width, height]"},
                "sort": {"field": "datum.datum.state", "order": "descending"},
                "anchor": [*_ANCHORS, *_ANCHORS],
                "offset": [6] * len(_ANCHORS) + [15] * len(_ANCHORS),
                # Both need a canvas, which vl-convert has not.
                "avoidBaseMark": in_browser,
                "avoidMarks": ["stair_marks"] if in_browser else [],
            }
        ],
    }


def dots(rows: Rows | None = None, chance: Rows | None = None, title: str | None = None) -> alt.LayerChart:
    """``rows``, best first: name, value, lo, hi, text, rank, mark (best, other, floor); ``chance``: value, text."""
    x = alt.X(
        "value:Q",
        scale=alt.Scale(zero=False, padding=8),
        axis=alt.Axis(title=title or _late("x_title"), tickCount=4, labelOverlap="greedy"),
    )
    base = alt.Chart(_data("rows", rows)).encode(y=_names())
    interval = base.mark_rule(color=MUTED, strokeWidth=1.5).encode(x=alt.X("lo:Q"), x2="hi:Q")
    means = base.mark_point(opacity=1, strokeWidth=1.4).encode(
        x=x,
        shape=_fixed(alt.Shape, "mark", {"best": "diamond", "other": "circle", "floor": "square"}),
        size=_fixed(alt.Size, "mark", {"best": 90, "other": 45, "floor": 40}),
        fill=_fixed(alt.Fill, "mark", {"best": ACCENT, "other": TEXT, "floor": BACKGROUND}),
        stroke=_fixed(alt.Stroke, "mark", {"best": ACCENT, "other": TEXT, "floor": MUTED}),
        tooltip=_tooltip(name="submission", text="score", rank="rank"),
    )
    ranks = _beyond(base, "rank", "datum.mark === 'best'")
    level = (
        alt.Chart(_data("chance", chance))
        .mark_rule(color=WARN, strokeDash=[4, 3])
        .encode(x=x, tooltip=_tooltip(text="chance"))
    )
    return alt.LayerChart(layer=[level, interval, means, *ranks]).properties(width=320, height=alt.Step(18))


def _phases() -> alt.LayerChart:
    """``rows``, in order: name, phase, start, end, text; ``totals``: name, end, text. Start and end in seconds, stacked."""
    x = alt.X("start:Q", axis=alt.Axis(title=_late("x_title"), tickCount=5))
    bars = (
        alt.Chart(alt.NamedData("rows"))
        .mark_bar(fill=ACCENT, stroke=ACCENT, strokeWidth=1, height=alt.RelativeBandSize(band=0.62))
        .encode(
            y=_names(),
            x=x,
            x2="end:Q",
            fillOpacity=_fixed(alt.FillOpacity, "phase", _PHASES),
            tooltip=_tooltip(name="submission", phase="phase", text="seconds"),
        )
    )
    base = alt.Chart(alt.NamedData("totals")).encode(y=_names())
    return alt.LayerChart(layer=[bars, *_beyond(base, "text")]).properties(width=320, height=alt.Step(20))


def _curves() -> alt.LayerChart:
    """``points``: x, value, line (one a seed), series (0 or 1), name, seed, x_text, value_text; ``ends``: see :func:`_ends`."""
    x = alt.X(
        "x:Q", scale=alt.Scale(nice=False, padding=6), axis=alt.Axis(title=_late("x_title"), tickCount=6)
    )
    y = alt.Y(
        "value:Q", scale=alt.Scale(zero=False, padding=6), axis=alt.Axis(title=_late("y_title"), tickCount=5)
    )
    base = alt.Chart(alt.NamedData("points")).encode(x=x, y=y)
    lines = base.mark_line(strokeWidth=1.5, tooltip=None).encode(
        *_series(alt.Stroke, alt.StrokeDash), detail="line:N", order=alt.Order("x:Q")
    )
    points = base.mark_point(size=18, opacity=1, fill=BACKGROUND, strokeWidth=1.2).encode(
        *_series(alt.Stroke, alt.Shape),
        tooltip=_tooltip(name="submission", seed="seed", x_text="at", value_text="value"),
    )
    return alt.LayerChart(layer=[lines, points, *_ends()]).properties(width=320, height=200)


def _slices() -> alt.LayerChart:
    """``points``, groups in order: group, value, name, series, text, n_queries, group_text; ``ends``: see :func:`_ends`. A ``|`` in group is a line break."""
    x = alt.X(
        "group:O",
        sort=None,
        scale=alt.Scale(padding=0.12),
        axis=alt.Axis(
            title=_late("x_title"),
            labelExpr="split(datum.label, '|')",
            labelAngle=0,
            labelOverlap=False,
            grid=True,
        ),
    )
    y = alt.Y(
        "value:Q",
        scale=alt.Scale(zero=False, nice=False, padding=12),
        axis=alt.Axis(title=_late("y_title"), tickCount=6),
    )
    base = alt.Chart(alt.NamedData("points")).encode(x=x, y=y)
    under = alt.selection_point(
        name="under", fields=["name"], on="pointerover", clear="pointerout", empty=False
    )
    width = (
        alt.when(under).then(alt.value(3.5)).when(f"datum.series < {len(_SERIES) - 1}").then(alt.value(1.8))
    )
    lines = base.mark_line(tooltip=None).encode(
        *_series(alt.Stroke, alt.StrokeDash), detail="name:N", strokeWidth=width.otherwise(alt.value(0.7))
    )
    points = (
        base.properties(name="points")
        .mark_point(size=40, opacity=1, fill=BACKGROUND, strokeWidth=1.4)
        .encode(
            *_series(alt.Stroke, alt.Shape),
            tooltip=_tooltip(name="submission", group_text="group", text="score", n_queries="queries"),
        )
        .add_params(under)
    )
    return alt.LayerChart(layer=[lines, points, *_ends()]).properties(width=600, height=340)


def _per_task_pair() -> alt.LayerChart:
    """``rows``, the two submissions of one task: name, value, lo, hi, text, series (0 or 1)."""
    x = alt.X(
        "value:Q", scale=alt.Scale(zero=False, padding=10), axis=alt.Axis(title=_late("x_title"), tickCount=4)
    )
    base = alt.Chart(alt.NamedData("rows")).encode(y=_names())
    colour = {number: _SERIES[number][0] for number in (0, 1)}
    bridge = base.mark_line(color=MUTED, strokeWidth=1, strokeDash=[2, 2], tooltip=None).encode(x=x)
    interval = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("lo:Q"), x2="hi:Q", stroke=_fixed(alt.Stroke, "series", colour)
    )
    dots = base.mark_point(size=75, opacity=1, strokeWidth=1.6).encode(
        x=x,
        shape=_fixed(alt.Shape, "series", {0: "circle", 1: "diamond"}),
        fill=_fixed(alt.Fill, "series", {0: ACCENT, 1: BACKGROUND}),
        stroke=_fixed(alt.Stroke, "series", colour),
        tooltip=_tooltip(name="submission", text="score"),
    )
    return alt.LayerChart(layer=[bridge, interval, dots, *_beyond(base, "text")]).properties(
        width=320, height=alt.Step(24)
    )


def _names() -> alt.Y:
    return alt.Y(
        "name:N",
        sort=None,
        axis=alt.Axis(title=None, labelLimit=alt.expr("name_limit"), domain=False, ticks=False, grid=False),
    )


def _beyond(base: alt.Chart, field: str, bold: str = "false") -> list[alt.Chart]:
    """Text at the right of the frame, where no mark can cross it; bold where the expression ``bold`` is true."""
    looks: tuple[tuple[str, Literal["bold", "normal"], str], ...] = (
        (bold, "bold", TEXT),
        (f"!({bold})", "normal", MUTED),
    )
    return [
        base.transform_filter(test)
        .mark_text(align="left", dx=8, fontWeight=weight, color=colour)
        .encode(x=alt.value("width"), text=f"{field}:N")
        for test, weight, colour in looks
        if test != "false"
    ]


def _ends() -> tuple[alt.Chart, alt.Chart]:
    """``ends``: name, series, last, at. Names at the right of lines that end at height ``last``, at heights where they do not overlap."""
    colours = {number: colour for number, (colour, _, _) in enumerate(_SERIES)}
    base = alt.Chart(alt.NamedData("ends")).encode(x=alt.value("width"))
    names = base.mark_text(y=alt.expr("datum.at"), align="left", dx=14, limit=alt.expr("name_limit"))
    strokes = base.mark_rule(strokeWidth=0.7, opacity=0.7, aria=False).encode(
        x2=alt.value(alt.expr("width + 12")),
        y=alt.value(alt.expr("datum.last")),
        y2=alt.value(alt.expr("datum.at")),
        stroke=_fixed(alt.Stroke, "series", colours),
    )
    return strokes, names.encode(text="name:N", color=_fixed(alt.Color, "series", colours))


def _series(*channels: type[alt.Stroke | alt.StrokeDash | alt.Shape]) -> list[Any]:
    """Channels that tell series apart: a line has a colour and dashes, its points the same colour and a shape."""
    place = {alt.Stroke: 0, alt.StrokeDash: 1, alt.Shape: 2}
    return [
        _fixed(channel, "series", {n: look[place[channel]] for n, look in enumerate(_SERIES)})
        for channel in channels
    ]


def _fixed(channel: Callable[..., Any], field: str, values: Mapping[Any, Any]) -> Any:
    """A channel that gives each known value of a field its look, without a legend: the page explains it in words."""
    scale = alt.Scale(domain=list(values), range=list(values.values()))
    return channel(f"{field}:N", scale=scale, legend=None)


def _tooltip(**fields: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields.items()]


def _late(signal: str) -> str:
    """A title that the page sets. Vega-Lite takes no expression there, so that :func:`compiled` puts it in."""
    return _LATE + signal


def _data(name: str, rows: Rows | None) -> alt.NamedData | alt.InlineData:
    return alt.NamedData(name) if rows is None else alt.InlineData(rows)


def compiled(chart: alt.LayerChart | alt.ConcatChart) -> Spec:
    """The chart as a Vega spec, validated by Altair on the way. Same chart, same spec."""
    limit = alt.param(name="name_limit", value=170)
    spec = chart.configure(**_config()).add_params(limit).to_dict()
    vega: Spec = vl_convert.vegalite_to_vega(spec)
    late = set()
    for axis in vega.get("axes", []):
        if str(axis.get("title", "")).startswith(_LATE):
            late.add(name := axis["title"].removeprefix(_LATE))
            axis["title"] = {"signal": name}
    vega["signals"] = [*vega.get("signals", []), *({"name": name, "value": ""} for name in sorted(late))]
    return vega


def _config() -> Spec:
    return {
        "background": "transparent",
        "font": _FONT,
        "view": {"stroke": None},
        "mark": {"color": TEXT},
        "axis": {
            "labelColor": MUTED,
            "titleColor": MUTED,
            "titleFontWeight": "normal",
            "gridColor": LINE,
            "gridOpacity": 0.7,
            "domainColor": LINE,
            "tickColor": LINE,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "labelPadding": 5,
        },
        "axisY": {"labelColor": TEXT},
        "text": {"fontSize": 11},
        "title": {"color": TEXT, "fontSize": 13, "anchor": "start"},
    }
