"""A run's report as one page: no script, nothing fetched, readable in light and dark and on a phone. Pure: a report in, HTML out.

Rules:
- All text from outside (titles, addresses, details) is escaped, stripped of invisible characters, shortened and isolated by direction (<bdi>).
- Only http(s) addresses become links, with rel="noopener nofollow noreferrer".
- The page's own policy (CSP) forbids every request and every script, so that an escape that failed would still do nothing.
- Marks are inline SVG without words, words are HTML beside them: an SVG that is squeezed to a phone's width keeps its text readable.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from lineage.claims import counted
from pipeline.report import Report, money, price_words, step_name, words_of
from pipeline.works import domain, one_line
from registry.vocabulary import CLASS_LABELS

_SOURCES_SHOWN = 400  # the rest is in report.json; a page of 20,000 lines helps nobody
_ROWS_SHOWN = 60
_TEXT = 240  # characters of a title or a detail
_LANES = 24  # rows of thin bars a purpose may take before they share rows
_EXTENT_WORDS = {"full_text": "full text", "abstract": "abstract", "excerpt": "excerpt", "metadata_only": "title and data only"}
_STATUS_WORDS = {"complete": "complete", "partial": "partial: fewer than asked for", "stopped": "stopped early"}
_FATES = (("review", "kept, listed for review"), ("guarded", "kept, told apart by a negation or a contrast"), ("dropped", "left out"))
_CATEGORY_WORDS = {
    "coaching_technique": "Coaching techniques",
    "scenario": "Diverse scenarios",
    "voice_style": "Voice and style",
    "multi_turn": "Conversations of several turns",
    "document_analysis": "A long document to analyse",
}
_SOURCES_NOTE = "Class and review status were given by rules, from what pages and services say of themselves; no citation was checked yet."
_FLAGGED_NOTE = "Text from outside that seems to address a model, and pairs with addresses, numbers or tags. Nothing listed here was used."
_EMBEDDINGS = "Cosine similarity of all-MiniLM-L6-v2; only neighbours that were written down are shown."

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>$title</title>
<style>
:root{color-scheme:light dark;--bg:#fff;--box:#f3f6fa;--line:#d7dfe7;--ink:#14202b;--soft:#4a5b69;--good:#1d7a46;--pale:#dcefe3;--warn:#b04a16;--tone:#5b7083;--link:#1a5fa8}
@media (prefers-color-scheme:dark){:root{--bg:#0f161c;--box:#18232d;--line:#2b3a47;--ink:#eef3f7;--soft:#a9bac8;--good:#4cc27e;--pale:#12351f;--warn:#f0915a;--tone:#7f95a8;--link:#86bdf5}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;overflow-wrap:anywhere}
main{max-width:1040px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:25px;line-height:1.3;margin:10px 0 14px;letter-spacing:-.01em;text-wrap:balance}
h2{font-size:17px;margin:0 0 4px}
h3{font-size:13.5px;margin:16px 0 6px;color:var(--soft);font-weight:600}
p{margin:0 0 10px}
a{color:var(--link);text-decoration-thickness:1px;text-underline-offset:2px}
.soft{color:var(--soft)}.small{font-size:13px}
.top{display:flex;flex-wrap:wrap;gap:6px 12px;align-items:center;color:var(--soft);font-size:13.5px}
.chip{display:inline-block;border-radius:99px;padding:1px 10px;font-size:12.5px;font-weight:600;background:var(--pale);color:var(--good)}
.chip.warn{background:none;box-shadow:inset 0 0 0 1.5px var(--warn);color:var(--warn)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:22px 0 0}
.tile{background:var(--box);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:20px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
section{margin-top:38px;padding-top:20px;border-top:1px solid var(--line)}
.two{display:grid;grid-template-columns:1fr 1fr;gap:8px 40px}
.two>*{min-width:0}
.bar{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:2px 12px;margin:9px 0;font-size:14px}
.bar b{font-variant-numeric:tabular-nums;font-weight:600;text-align:right}
.track{grid-column:1/-1;height:10px;border-radius:5px;background:var(--box);box-shadow:inset 0 0 0 1px var(--line);position:relative}
.track i{position:absolute;inset:0 auto 0 0;border-radius:5px;background:var(--good)}
.track i.tone{background:var(--tone)}.track i.warn{background:var(--warn)}
.track u{position:absolute;top:-3px;bottom:-3px;width:2.5px;margin-left:-1px;border-radius:1px;background:var(--ink)}
svg{display:block;width:100%}
.good{fill:var(--good)}.tone{fill:var(--tone)}.warn{fill:var(--warn)}.edge{stroke:var(--ink);stroke-width:1.5;vector-effect:non-scaling-stroke}
.dash{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:4 4;vector-effect:non-scaling-stroke}.base{stroke:var(--line);stroke-width:1;vector-effect:non-scaling-stroke}
.lane{display:grid;grid-template-columns:200px minmax(0,1fr);gap:0 12px;align-items:center;padding:4px 0;border-bottom:1px solid var(--line);font-size:13px}
.lane.axis{border:0;color:var(--soft)}
.ends{display:flex;justify-content:space-between;gap:12px;color:var(--soft);font-size:12.5px;font-variant-numeric:tabular-nums}
.key{display:flex;flex-wrap:wrap;gap:4px 16px;color:var(--soft);font-size:13px;margin:6px 0 0}
.key span::before{content:"";display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px;background:var(--c,var(--tone))}
.key .mark::before{width:2.5px;height:13px;border-radius:1px;vertical-align:-2px}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{text-align:left;color:var(--soft);font-weight:600;font-size:12.5px}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
ul.plain{list-style:none;margin:0;padding:0}
ul.plain li{padding:7px 0;border-bottom:1px solid var(--line)}
details{margin:8px 0}summary{cursor:pointer;padding:4px 0}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,monospace}
@media (max-width:640px){main{padding:22px 16px 48px}h1{font-size:21px}.two{grid-template-columns:1fr}.lane{grid-template-columns:1fr}
.tiles{grid-template-columns:1fr 1fr}
.cards thead{display:none}.cards tr{display:block;padding:8px 0;border-bottom:1px solid var(--line)}.cards td{display:block;border:0;padding:1px 0}
.cards td.n{text-align:left}.cards td[data-k]::before{content:attr(data-k) ": ";color:var(--soft)}}
</style>
</head>
<body><main>
$body
</main></body>
</html>
""")


def page(report: Report) -> str:
    """The whole page."""
    facts = report.as_json()
    sections = (
        _head(facts, report),
        _section("From what was found to what was kept", _funnel(facts)),
        _section("Composition", _composition(facts), "What was asked for against what was kept. The upright mark is the target."),
        _section("Time", _timeline(facts), "Every paid or fetched call, as long as it took."),
        _section("Cost", _cost(facts), "Prices are estimates from the provider's published list; what is not known is called unknown."),
        _section("How alike the texts are", _similarity(facts), _EMBEDDINGS),
        _section("What could not be had", _gaps(facts)),
        _section("What was left out, and why", _drops(facts), "Every item is in rejected.jsonl with its evidence."),
        _section("Sources", _sources(facts), _SOURCES_NOTE),
        _section(
            "Flagged by the safety rules",
            _flagged(facts),
            _FLAGGED_NOTE,
        ),
        _section("How the run was made", _made(facts)),
    )
    name = f"Training set for {facts['name'] or facts['advisor']}"
    return _PAGE.substitute(title=_text(name), body="\n".join(part for part in sections if part))


# -- words and numbers --------------------------------------------------------------------------------------------------------------------


def _text(value: Any, limit: int = _TEXT) -> str:
    """Escaped text in one line, isolated from the direction of what stands around it."""
    return escape(one_line(str(value), limit))


def _foreign(value: Any, limit: int = _TEXT) -> str:
    words = _text(value, limit)
    return f'<bdi dir="auto">{words}</bdi>' if words else ""


def _link(url: str | None, words: str) -> str:
    """A link to an http(s) address with these (escaped) words; the words alone for anything else."""
    if not url or domain(url) is None:
        return words
    return f'<a href="{escape(url)}" rel="noopener nofollow noreferrer">{words}</a>'


def _span(seconds: float) -> str:
    """A length of time: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def _share(part: float, whole: float) -> str:
    """A CSS width."""
    return f"{100 * part / whole:.2f}%" if whole > 0 else "0"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 or share == 0 else "<1%"


def _money_or_unknown(row: Mapping[str, Any]) -> str:
    return price_words(row["cost"], row["cost_known"], row["calls_of_unknown_price"])


def _section(title: str, body: str, note: str = "") -> str:
    if not body:
        return ""
    return f'<section><h2>{title}</h2>{f"""<p class="soft small">{note}</p>""" if note else ""}{body}</section>'


def _bar(label: str, value: str, width: str, *, kind: str = "", mark: str = "") -> str:
    target = f'<u style="left:{mark}"></u>' if mark else ""
    return f'<div class="bar"><span>{label}</span><b>{value}</b><div class="track"><i class="{kind}" style="width:{width}"></i>{target}</div></div>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table that becomes a list of cards on a phone; cells hold HTML."""
    kinds = [' class="n"' if i in numbers else "" for i in range(len(heads))]
    head = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, heads, strict=True))
    lines = [
        "<tr>" + "".join(f'<td{k} data-k="{h}">{c}</td>' if c else "<td></td>" for k, h, c in zip(kinds, heads, row, strict=True)) + "</tr>"
        for row in rows
    ]
    return f'<div class="wide"><table class="cards"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _capped(rows: Sequence[Any], limit: int) -> tuple[Sequence[Any], str]:
    more = len(rows) - limit
    return rows[:limit], f'<p class="soft small">{more:,} more are in report.json.</p>' if more > 0 else ""


# -- sections -----------------------------------------------------------------------------------------------------------------------------


def _head(facts: Mapping[str, Any], report: Report) -> str:
    total, spending = facts["spending"]["total"], facts["spending"]
    kept, asked = facts["funnel"]["pairs"][-1]["count"], facts["config"]["examples"]
    per_pair = spending["per_pair"]["cost"]
    each = f"cost; {money(per_pair)} a kept pair" if isinstance(per_pair, int | float) else "cost"
    known = not isinstance(total["cost"], str)
    retries = f"; {counted(total['retries'], 'retry', 'retries')}" if total["retries"] else ""
    replayed = f"; {total['replayed']:,} answers reused" if total["replayed"] else ""
    tiles = [
        (f"{kept:,} of {asked:,}", "pairs kept, of those asked for"),
        (f"{facts['sources']['works']:,}", f"sources used, {counted(facts['sources']['documents'], 'document')} read"),
        (money(total["cost"]) if known else "unknown", each if known else f"cost: {_text(report.cost_words)}"),
        (_span(facts["timeline"]["seconds"]), "from the first call to the last, pauses left out"),
        (f"{total['calls']:,}", f"calls{retries}{replayed}"),
    ]
    name = _foreign(facts["name"] or facts["advisor"], 80)
    chip = f'<span class="chip{"" if facts["status"] == "complete" else " warn"}">{_STATUS_WORDS[facts["status"]]}</span>'
    reason = f"<p><strong>Why it ended early:</strong> {_foreign(facts['stop_reason'], 500)}</p>" if facts["stop_reason"] else ""
    subject = f" on {_foreign(facts['subject'], 120)}" if facts["subject"] else ""
    boxes = "".join(f'<div class="tile"><b>{value}</b><span>{words}</span></div>' for value, words in tiles)
    return (
        f'<header><div class="top">{chip}<span>Training set for {name}{subject}</span><code>{_text(facts["run"], 80)}</code></div>'
        f"<h1>{_foreign(report.headline, 600)}</h1>{reason}"
        f'<p class="soft">The pairs are a model\'s text. {name} is an AI character, not a licensed professional. '
        f'Rules were checked by programs; no person has judged the advice.</p><div class="tiles">{boxes}</div></header>'
    )


def _funnel(facts: Mapping[str, Any]) -> str:
    columns = []
    for stream, title in (("findings", "Findings: passages of sources"), ("pairs", "Pairs: example conversations")):
        rows = facts["funnel"][stream]
        top = max([row["count"] for row in rows], default=0)
        bars = [
            _bar(row["name"].capitalize(), f"{row['count']:,}", _share(row["count"], top), kind="" if i == len(rows) - 1 else "tone")
            for i, row in enumerate(rows)
        ]
        columns.append(f"<div><h3>{title}</h3>{''.join(bars)}</div>")
    rows = [
        [
            _text(row["name"]),
            f"{row['in']:,}",
            f"{row['kept']:,}",
            ", ".join(f"{n:,} {_text(words_of(r))}" for r, n in row["dropped"].items()),
        ]
        for row in facts["flow"]
    ]
    steps = _table(("step", "in", "kept", "left out"), rows, (1, 2))
    return f'<div class="two">{"".join(columns)}</div><details><summary>Every step in numbers</summary>{steps}</details>'


def _composition(facts: Mapping[str, Any]) -> str:
    rows = facts["composition"]
    top = max([1, *(max(row["target"], row["achieved"]) for row in rows)])
    bars = [
        _bar(
            _CATEGORY_WORDS.get(row["category"], _text(row["category"], 60)),
            f"{row['achieved']:,} of {row['target']:,}",
            _share(row["achieved"], top),
            mark=_share(row["target"], top),
        )
        for row in rows
    ]
    plan = facts["plan"]
    rest = f"; {counted(plan['unfilled'], 'cell')} stayed empty" if plan["unfilled"] else ""
    planned = f'<p class="soft small">{counted(plan["cells"], "planned cell")}, {plan["kept"]:,} with a kept pair{rest}.</p>'
    parts = []
    for part, title in (("technique", "Techniques"), ("voice", "Voice"), ("persona", "Personas"), ("scenario", "Scenarios")):
        shown, more = _capped(plan["by"][part], _ROWS_SHOWN)
        if shown:
            table = _table(
                (part, "planned", "kept"), [[_foreign(words_of(r["name"])), f"{r['planned']:,}", f"{r['kept']:,}"] for r in shown], (1, 2)
            )
            parts.append(f"<details><summary>{title}: {len(plan['by'][part]):,} kinds</summary>{table}{more}</details>")
    return "".join(bars) + planned + "".join(parts)


def _timeline(facts: Mapping[str, Any]) -> str:
    line = facts["timeline"]
    if not line["calls"]:
        return ""
    whole = max(line["seconds"], 0.001)
    lanes = [
        f'<div class="lane"><span>{_text(step_name(purpose), 40)} <span class="soft">{counted(len(calls), "call")}</span></span>{_lanes(calls, whole, line["pauses"])}</div>'
        for purpose, calls in line["calls"].items()
    ]
    ends = f'<div class="lane axis"><span></span><div class="ends"><span>0 s</span><span>{_span(whole / 2)}</span><span>{_span(whole)}</span></div></div>'
    slept = sum(p["seconds"] for p in line["pauses"])
    paused = (
        f'<p class="soft small">Dashed: the run rested {counted(len(line["pauses"]), "time")}, {_span(slept)} in all, which is left out here.</p>'
        if slept
        else ""
    )
    rows = [[_text(step_name(step)), _span(seconds)] for step, seconds in facts["seconds"]["by_step"].items()]
    steps = f"<details><summary>Wall time by step</summary>{_table(('step', 'time'), rows, (1,))}</details>" if rows else ""
    return "".join(lanes) + ends + paused + steps


def _lanes(calls: Sequence[list[float]], whole: float, pauses: Sequence[Mapping[str, float]]) -> str:
    """Bars in as few rows as calls overlap, each in the first row that is free."""
    free: list[float] = []
    bars = []
    for start, seconds in sorted(calls):
        row = next((i for i, end in enumerate(free) if end <= start), len(free))
        if row == len(free):
            free.append(0.0)
        free[row] = start + seconds
        x, width = 1000 * start / whole, max(1000 * seconds / whole, 1.5)
        bars.append(f'<rect x="{min(x, 998.5):.1f}" y="{row % _LANES * 6 + 1}" width="{min(width, 1000 - min(x, 998.5)):.1f}" height="4"/>')
    height = min(len(free), _LANES) * 6
    rests = "".join(f'<path class="dash" d="M{1000 * p["at"] / whole:.1f} 0V{height}"/>' for p in pauses)
    return (
        f'<svg class="good" viewBox="0 0 1000 {height}" preserveAspectRatio="none" style="height:{max(height, 6)}px" role="img" '
        f'aria-label="{counted(len(calls), "call")}">{"".join(bars)}{rests}</svg>'
    )


def _cost(facts: Mapping[str, Any]) -> str:
    rows = facts["spending"]["by_purpose"]
    if not rows:
        return ""
    top = max(row["cost_known"] for row in rows)
    bars = [
        _bar(
            f'{_text(row["name"], 60)} <span class="soft small">{counted(row["calls"], "call")}, {row["input_tokens"]:,} tokens in, '
            f"{row['output_tokens']:,} out{_searched(row)}</span>",
            _text(_money_or_unknown(row)),
            _share(row["cost_known"], top),
            kind="warn" if isinstance(row["cost"], str) else "",
        )
        for row in rows
    ]
    each = facts["spending"]["per_pair"]
    words = ""
    if each["output_tokens"] is not None:
        cost = money(each["cost"]) if isinstance(each["cost"], int | float) else "an unknown sum"
        words = f'<p class="soft">A kept pair took {cost}, {each["input_tokens"]:,.0f} tokens in and {each["output_tokens"]:,.0f} tokens out.</p>'
    return f"<p><strong>{_text(_money_or_unknown(facts['spending']['total']))}</strong> in all.</p>{words}{''.join(bars)}"


def _searched(row: Mapping[str, Any]) -> str:
    return f", {counted(row['web_searches'], 'search', 'searches')}" if row["web_searches"] else ""


def _similarity(facts: Mapping[str, Any]) -> str:
    parts = [_histogram(facts["similarity"][name], title) for name, title in (("findings", "Findings"), ("pairs", "Questions"))]
    if not any(parts):
        return ""
    key = (
        '<div class="key"><span style="--c:var(--tone)">kept, listed for review</span><span style="--c:var(--good)">kept although alike: '
        'a negation or a contrast tells them apart</span><span style="--c:var(--warn)">left out</span><span class="mark" style="--c:var(--ink)">threshold</span></div>'
    )
    shown, more = _capped(facts["review"], _ROWS_SHOWN)
    rows = [[_text(r["item"], 60), _text(r["neighbour"], 60), f"{float(r['score']):.3f}"] for r in shown]
    band = f"{counted(len(facts['review']), 'near pair')} in the review band"
    review = f"<details><summary>{band}</summary>{_table(('item', 'neighbour', 'similarity'), rows, (2,))}{more}</details>" if rows else ""
    return f'<div class="two">{"".join(parts)}</div>{key}{review}'


def _histogram(data: Mapping[str, Any], title: str) -> str:
    if not data["bins"]:
        return ""
    low = min(data["review"], data["bins"][0]["from"], data["threshold"])
    wide, top = 1 - low, max(sum(b[fate] for fate, _ in _FATES) for b in data["bins"])
    marks = []
    for bar in data["bins"]:
        x, width, y = 1000 * (bar["from"] - low) / wide, 1000 * (bar["to"] - bar["from"]) / wide, 100.0
        for (fate, _), kind in zip(_FATES, ("tone", "good", "warn"), strict=True):
            height = 96 * bar[fate] / top
            y -= height
            marks.append(
                f'<rect class="{kind}" x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{height:.1f}"/>' if height else ""
            )
    line = 1000 * (data["threshold"] - low) / wide
    count = sum(b[fate] for b in data["bins"] for fate, _ in _FATES)
    return (
        f"<div><h3>{title}: {counted(count, 'near neighbour')}, threshold {data['threshold']:.2f}</h3>"
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" style="height:110px" role="img" aria-label="{title} by similarity">{"".join(marks)}'
        f'<path class="base" d="M0 100H1000"/><path class="edge" d="M{line:.1f} 0V100"/></svg>'
        f'<div class="ends"><span>{low:.2f}</span><span>tallest bar: {top:,}</span><span>1.00</span></div></div>'
    )


def _gaps(facts: Mapping[str, Any]) -> str:
    if not facts["gaps"]:
        return '<p class="soft">Nothing was reported missing.</p>'
    shown, more = _capped(facts["gaps"], _ROWS_SHOWN)
    rows = [[_text(step_name(g["step"]), 60), _foreign(g["message"] or words_of(g["reason"]), 400), f"{g['count']:,}"] for g in shown]
    return _table(("step", "what is missing", "count"), rows, (2,)) + more


def _drops(facts: Mapping[str, Any]) -> str:
    if not facts["drops"]:
        return '<p class="soft">Nothing was left out.</p>'
    shown, more = _capped(facts["drops"], _ROWS_SHOWN)
    rows = [
        [
            f'{_text(step_name(d["step"]), 60)} <span class="soft">({d["stream"]})</span>',
            _text(d["words"], 120),
            f"{d['count']:,}",
            _foreign(d["example"]),
        ]
        for d in shown
    ]
    return _table(("step", "reason", "count", "for example"), rows, (2,)) + more


def _sources(facts: Mapping[str, Any]) -> str:
    sources, parts = facts["sources"], []
    top = max([1, *(row["works"] for row in sources["by_class"])])
    bars = [_bar(_text(row["label"]), f"{row['works']:,}", _share(row["works"], top)) for row in sources["by_class"]]
    counts = {
        "Review status": {words_of(k).capitalize(): v for k, v in sources["by_review_status"].items()},
        "How much was read": {_EXTENT_WORDS[k].capitalize(): v for k, v in sources["by_extent"].items()},
    }
    lists = "".join(
        f"<h3>{title}</h3>" + _table(("kind", "count"), [[_text(k), f"{v:,}"] for k, v in rows.items()], (1,))
        for title, rows in counts.items()
        if rows
    )
    parts.append(f'<div class="two"><div><h3>Sources used, by class</h3>{"".join(bars)}</div><div>{lists}</div></div>' if bars else "")
    shown, more = _capped(sources["list"], _SOURCES_SHOWN)
    for class_ in dict.fromkeys(source["class"] for source in shown):
        rows = [source for source in shown if source["class"] == class_]
        items = "".join(_source(source) for source in rows)
        opened = " open" if len(rows) <= 12 else ""
        parts.append(
            f'<details{opened}><summary>{CLASS_LABELS[class_]}: {counted(len(rows), "source")}</summary><ul class="plain">{items}</ul></details>'
        )
    parts.append(more)
    parts.append(_sites(facts))
    rules = [[f"<code>{_text(r['rule'], 80)}</code>", f"{r['accepted']:,}", f"{r['refused']:,}"] for r in facts["rules"]]
    if rules:
        parts.append(
            f"<details><summary>Decisions by rule</summary>{_table(('rule', 'accepted', 'refused'), rows=rules, numbers=(1, 2))}</details>"
        )
    return "".join(parts)


def _source(source: Mapping[str, Any]) -> str:
    words = _link(source["url"], _foreign(source["title"]))
    read = ", ".join(_EXTENT_WORDS[extent] for extent in source["extents"])
    shaped = "; shaped questions only" if source["roles"] == ["question"] else ""
    host = domain(source["url"] or "") or "no public address"
    rules = ", ".join(f"<code>{_text(rule, 80)}</code>" for rule in source["rules"])
    return (
        f'<li>{words}<div class="soft small">{_text(host, 80)} · read: {read} · review status: {_text(words_of(source["review_status"]))} · '
        f"{counted(source['pairs'], 'pair')}{shaped} · rule {rules}</div></li>"
    )


def _sites(facts: Mapping[str, Any]) -> str:
    parts = []
    if facts["pairs_by_domain"]:
        shown, more = _capped(facts["pairs_by_domain"], 30)
        rows = [
            [_text(r["domain"], 80), f"{r['pairs']:,}", _percent(r["share"]) + (" (above its share)" if r["over_cap"] else "")]
            for r in shown
        ]
        parts.append(f"<details><summary>Pairs by site</summary>{_table(('site', 'pairs', 'share'), rows, (1, 2))}{more}</details>")
    if facts["refused_domains"]:
        shown, more = _capped(facts["refused_domains"], 30)
        rows = [
            [_text(r["domain"], 80), f"{r['times']:,}", ", ".join(f"{n:,} {_text(words_of(k))}" for k, n in r["reasons"].items())]
            for r in shown
        ]
        note = '<p class="soft small">A person who knows a site may vouch for it; its pages are then accepted under the class that the person gives.</p>'
        parts.append(
            f"<details><summary>Sites refused most often</summary>{note}{_table(('site', 'times', 'rule'), rows, (1,))}{more}</details>"
        )
    return "".join(parts)


def _flagged(facts: Mapping[str, Any]) -> str:
    """What the safety rules found. Addresses stay words here: a page that addresses a model is nothing to click on."""
    if not facts["flagged"]:
        return '<p class="soft">None were found by the rules. Rules do not find everything.</p>'
    shown, more = _capped(facts["flagged"], _ROWS_SHOWN)
    rows = [
        [
            ", ".join(f"<code>{_text(rule, 80)}</code>" for rule in f["rules"]),
            f"{f['what']}, {_text(step_name(f['agent']), 60)}",
            _foreign(f["title"] or f["item"]) + f" <span class='soft'>{_foreign(f['evidence'] or f['url'])}</span>",
        ]
        for f in shown
    ]
    return _table(("rule", "where", "what"), rows) + more


def _plainly(value: Any) -> str:
    return ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, Mapping) else str(value)


def _made(facts: Mapping[str, Any]) -> str:
    config = facts["config"]
    rows = [
        ("Written by", _foreign(facts["generator"])),
        ("Research by", _text(config["research_model"])),
        ("Seed", f"{config['seed']}"),
        ("Order (digest)", f"<code>{_text(facts['config_digest'])}</code>"),
        ("Persona (digest)", f"<code>{_text(facts['persona_sha256'])}</code>"),
        *((_text(words_of(key), 60), _foreign(_plainly(value))) for key, value in facts["environment"].items()),
    ]
    return _table(("what", "value"), rows)
