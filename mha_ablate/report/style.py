"""How a page looks: on a screen, by day and by night, on a telephone, on paper."""

from __future__ import annotations

import re
import zlib
from html import escape

# What figures are drawn in, by the name of the page's variable, and what it becomes by night.
COLOURS = {
    "#0072b2": ("c0", "#5aaef0"),
    "#d55e00": ("c1", "#ff8f45"),
    "#009e73": ("c2", "#35c9a0"),
    "#cc79a7": ("c3", "#e6a3c8"),
    "#e69f00": ("c4", "#f4bd4f"),
    "#56b4e9": ("c5", "#8fd0f7"),
    "#882255": ("c6", "#d873a6"),
    "#117733": ("c7", "#62c182"),
    "#666666": ("grey", "#a0a4ab"),
    "#999999": ("axis", "#6f747c"),
    "#dddddd": ("grid", "#33373d"),
    "#eeeeee": ("band", "#272b31"),
    "#ffffff": ("paper", "#16181c"),
    "#000000": ("ink", "#e8e9eb"),
}
NOT_SHOWN = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->", flags=re.DOTALL)
REFERENCE = re.compile(r"""(?<= id=")|(?<=href="#)|(?<=url\(#)""")
DRAWN = re.compile("|".join(COLOURS), flags=re.IGNORECASE)
DAY = "".join(f"--{name}:{day};" for day, (name, _) in COLOURS.items())
NIGHT = "".join(f"--{name}:{night};" for name, night in COLOURS.values())

CSS = f"""
:root {{ color-scheme: light dark; {DAY} --quiet:#5f6368; --line:#e3e3e6; --code:#f3f3f5; --note:#fff6e5; --edge:#e69f00; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ {NIGHT} --quiet:#a0a4ab; --line:#30343a; --code:#23262b; --note:#2d2719; }} }}
body {{ font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 64rem; margin: 2.5rem auto; padding: 0 1.2rem; }}
h1 {{ font-size: 1.5rem; margin: 0 0 .3rem; }} h2 {{ font-size: 1.15rem; margin: 2.4rem 0 .6rem; }}
a {{ color: var(--c0); }}
.answer {{ font-size: 1.15rem; border-left: 4px solid var(--c0); padding: .2rem 0 .2rem 1rem; margin: 1.2rem 0 1rem; }}
.note {{ background: var(--note); border-left: 4px solid var(--edge); padding: .5rem 1rem; margin: .4rem 0; }}
.quiet, figcaption {{ color: var(--quiet); font-size: .9rem; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); gap: 1.4rem;
  align-items: start; }}
.figures.three {{ grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }}
.stack {{ display: grid; gap: 1.4rem; min-width: 0; }}
figure {{ margin: 0; min-width: 0; max-width: 46rem; }} figure.wide {{ grid-column: 1 / -1; max-width: none; }}
svg {{ width: 100%; height: auto; fill: var(--ink); display: block; }}
.scroll {{ overflow-x: auto; }}
.claim {{ border: 1px solid var(--line); border-radius: 6px; padding: .2rem 1rem .8rem; margin: 1rem 0; }}
.claim h2 {{ margin: .6rem 0; font-size: 1.05rem; border: 0; }}
.claim dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0 0 .6rem; }}
.claim dt {{ color: var(--quiet); margin: 0; }} .claim dd {{ margin: 0; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }}
th, td {{ text-align: right; padding: .36rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th {{ font-weight: 600; vertical-align: bottom; }}
th:first-child, td:first-child, .words th:last-child, .words td:last-child {{ text-align: left; }}
th:first-child, td:first-child {{ position: sticky; left: 0; background: var(--paper); }}
th small {{ display: block; font-weight: 400; color: var(--quiet); }}
summary {{ cursor: pointer; color: var(--quiet); font-size: .9rem; padding: .2rem 0; }}
.lists th:last-child, .lists td:last-child {{ min-width: 14rem; white-space: normal; text-align: left; }}
td.reason, th.reason {{ min-width: 11rem; white-space: normal; text-align: left; overflow-wrap: break-word; }}
td.reason:first-child, th.reason:first-child {{ min-width: 0; white-space: nowrap; }}
code {{ background: var(--code); padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }}
dt {{ font-weight: 600; margin-top: .5rem; }} dd {{ margin: 0; }}
@media (max-width: 40rem) {{ body {{ margin: 1.2rem auto; padding: 0 .9rem; font-size: 15px; }} table {{ font-size: .86rem; }}
  th, td {{ padding: .3rem .45rem; }} figure.wide {{ overflow-x: auto; }} figure.wide svg {{ min-width: 44rem; }}
  .claim dl {{ display: block; }} .claim {{ padding: .2rem .7rem .7rem; }} }}
@media print {{ body {{ max-width: none; margin: 0; padding: 0; font-size: 10.5pt; }} .scroll {{ overflow: visible; }}
  .figures {{ grid-template-columns: 1fr 1fr; }} .figures.three {{ grid-template-columns: repeat(3, 1fr); }}
  table {{ font-size: 7.5pt; }} th, td {{ padding: .12rem .25rem; white-space: normal; }}
  th:first-child, td:first-child {{ position: static; }} details::details-content {{ content-visibility: visible; }}
  .quiet, figcaption, summary, small {{ font-size: 8pt; }} .note {{ font-size: 9pt; padding: .2rem .7rem; }}
  figure, tr, .note, .answer {{ break-inside: avoid; }} h2, summary {{ break-after: avoid; }} }}
"""


def inline(svg: str, label: str = "Figure") -> str:
    """An SVG for the inside of a page, called `label`.

    Its colours are the page's, so that the night has its own, and its ids are its own: figures have letters in common, and an
    id may stand in a page but once.
    """
    drawn = NOT_SHOWN.sub("", svg[svg.index("<svg") :])
    drawn = DRAWN.sub(lambda found: f"var(--{COLOURS[found[0].lower()][0]})", drawn)
    own = f"f{zlib.crc32(svg.encode()):08x}-"
    drawn = REFERENCE.sub(lambda found: f"{found[0]}{own}", drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
