#!/usr/bin/env python3
"""Put the figures of one scripts/bench run together.

    bench/report.py [--about DATE SECONDS COMMAND] DIRECTORY

Reads what the scripts wrote there (boot.json, macro.json, user.json, nano.json, disk.json, net.json;
what is missing is left out), prints the tables, and writes results.json, results.csv, results.md and
index.html, a page with bars that needs nothing else. A ratio is ringshift's time by the other's: below
1 we are faster.
"""
import csv
import html
import json
import math
import os
import platform
import subprocess
import sys

from figures import OURS, print_table, read_suite, show, show_ratio, title

SUITES = ("boot", "macro", "user", "nano", "disk", "net")

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:80em;padding:0 1em}
table{border-collapse:collapse;width:100%;margin:1em 0 2em;font-variant-numeric:tabular-nums}
th,td{padding:.2em .6em;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.bar{width:300px;text-align:left;padding-right:0}
svg{display:block}.note,.unit{color:#777}.summary td:nth-child(n+2){font-weight:600}"""

# The bars: a log scale from 1/DECADES... to its inverse, so many pixels for a decade.
DECADE, DECADES, HEIGHT = 70, 2, 14
WIDTH = 2 * DECADES * DECADE


def load(directory):
    """Suite -> its rows."""
    paths = {name: os.path.join(directory, name + ".json") for name in SUITES}
    return {name: read_suite(path) for name, path in paths.items() if os.path.exists(path)}


def rivals(suites):
    """What ringshift is compared with, suite by suite: title -> (suite, engine) of each."""
    found = {}
    for suite in suites.values():
        for engine in suite.others():
            if engine != "host":
                found.setdefault(title(engine), []).append((suite, engine))
    return found


def standing(suite, engine):
    """Rows won, names of the rows lost, and the geometric mean of the ratios; None without any."""
    ratios = {row.name: row.ratio(engine) for row in suite.rows.values()}
    ratios = {name: ratio for name, ratio in ratios.items() if ratio}
    if not ratios:
        return None
    lost = [f"{name} ({show_ratio(ratio)})" for name, ratio in ratios.items() if ratio >= 1]
    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
    return len(ratios) - len(lost), lost, mean


def standings(suites):
    """(the other, its [(suite, *standing)...]) for each there is."""
    for other, compared in rivals(suites).items():
        found = [(suite, standing(suite, engine)) for suite, engine in compared]
        yield other, [(suite, *stands) for suite, stands in found if stands]


def print_standing(suites):
    for other, found in standings(suites):
        print(f"\n{'Beside ' + other:56}{'faster':>8}{'slower':>8}{'geometric mean':>18}")
        for suite, won, lost, mean in found:
            print(f"{suite.heading:56}{won:8}{len(lost):8}{mean:18.2f}")
        slower = [row for _, _, lost, _ in found for row in lost]
        if slower:
            print("Slower: " + ", ".join(slower))


def write_csv(path, suites):
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["suite", "row", "unit", "engine", "median", "least", "most", "runs",
                      "ringshift's time by this"])
        for name, suite in suites.items():
            for row in suite.rows.values():
                for engine, figures in row.figures.items():
                    share = None if engine == OURS else row.ratio(engine)
                    out.writerow([name, row.name, row.unit, title(engine), row.median(engine),
                                  min(figures), max(figures), len(figures),
                                  "" if share is None else f"{share:.4g}"])


def markdown(suites, machine):
    """The same for a document: docs/performance.md has it of the last full run."""
    yield "| | |\n|---|---|"
    for key, value in machine.items():
        yield f"| {key} | {value} |"
    for other, found in standings(suites):
        yield f"\n| beside {other} | faster | slower | geometric mean | slower are |\n|---|---|---|---|---|"
        for suite, won, lost, mean in found:
            yield f"| {suite.heading} | {won} | {len(lost)} | {mean:.2f} | {', '.join(lost)} |"
    for suite in suites.values():
        engines = suite.engines()
        heads = ["", *map(title, engines), "spread", *(f"of {title(e)}" for e in suite.others())]
        yield f"\n### {suite.heading}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
        for row in suite.rows.values():
            spread = row.spread(OURS)
            cells = [f"{row.name}, {row.unit}", *(show(row.median(e)) for e in engines),
                     "" if spread is None else f"±{spread:.0f} %",
                     *map(show_ratio, suite.ratios(row))]
            yield f"| {' | '.join(cells)} |"
        for note in suite.notes:
            yield "\n" + note.rstrip(".") + "."
    yield ""


def bar(share):
    """To the left of the middle, which is 1, we are faster."""
    if share is None:
        return ""
    middle = WIDTH / 2
    x = middle + DECADE * max(-DECADES, min(DECADES, math.log10(share)))
    colour = "#2a8" if share < 1 else "#c53"
    grid = "".join(f'<line x1="{i * DECADE}" x2="{i * DECADE}" y1="0" y2="{HEIGHT}" '
                   f'stroke="{"#888" if i == DECADES else "#8884"}"/>'
                   for i in range(2 * DECADES + 1))
    return (f'<svg width="{WIDTH}" height="{HEIGHT}">{grid}<rect x="{min(x, middle):.1f}" y="2" '
            f'height="{HEIGHT - 4}" width="{abs(x - middle):.1f}" fill="{colour}"/></svg>')


def scale():
    """The marks above the bars."""
    marks = "".join(f'<text x="{i * DECADE}" y="11" font-size="11" fill="currentColor" '
                    f'text-anchor="{"start" if i == 0 else "end" if i == 2 * DECADES else "middle"}">'
                    f'{10.0 ** (i - DECADES):g}</text>' for i in range(2 * DECADES + 1))
    return f'<svg width="{WIDTH}" height="{HEIGHT}">{marks}</svg>'


def cell(row, engine):
    spread = row.spread(engine)
    hint = "" if spread is None else f' title="&plusmn;{spread:.0f} %"'
    return f"<td{hint}>{show(row.median(engine))}</td>"


def section(suite):
    engines = suite.engines()
    yield (f"<h2>{html.escape(suite.heading)}</h2><table><tr><th></th><th></th>" +
           "".join(f"<th>{html.escape(title(e))}</th>" for e in engines) +
           "<th>spread</th>" +
           "".join(f"<th>of {html.escape(title(e).split()[-1])}</th>" for e in suite.others()) +
           f"<th class=bar>{scale()}</th></tr>")
    for row in suite.rows.values():
        share, spread = row.ratio(suite.baseline), row.spread(OURS)
        yield (f"<tr><td>{html.escape(row.name)}</td><td class=unit>{html.escape(row.unit)}</td>" +
               "".join(cell(row, e) for e in engines) +
               f"<td class=unit>{'' if spread is None else f'&plusmn;{spread:.0f} %'}</td>" +
               "".join(f"<td>{show_ratio(r)}</td>" for r in suite.ratios(row)) +
               f"<td class=bar>{bar(share)}</td></tr>")
    yield "</table>"
    for note in suite.notes:
        yield f"<p class=note>{html.escape(note)}</p>"


def page(suites, machine):
    out = ["<!doctype html><html lang=en><meta charset=utf-8>"
           "<meta name=viewport content='width=device-width'><title>ringshift: the comparison</title>",
           f"<style>{STYLE}</style><h1>ringshift: the comparison</h1>",
           "<p>" + "<br>".join(f"{html.escape(k)}: {html.escape(str(v))}"
                               for k, v in machine.items()) + "</p>",
           "<p class=note>Figures are medians; the spread is that of ringshift's runs, half the "
           "distance of the extremes. A ratio is ringshift's time by the other's: below 1, and a "
           "green bar to the left, ringshift is faster. The bars of rows are of QEMU TCG's time; all end at a "
           "hundred times.</p>"]
    for other, found in standings(suites):
        out.append(f"<table class=summary><tr><th>Beside {html.escape(other)}</th><th>faster</th>"
                   f"<th>slower</th><th>geometric mean</th><th class=bar>{scale()}</th></tr>")
        for suite, won, lost, mean in found:
            out.append(f"<tr><td>{html.escape(suite.heading)}</td><td>{won}</td>"
                       f'<td title="{html.escape(", ".join(lost))}">{len(lost)}</td>'
                       f"<td>{mean:.2f}</td><td class=bar>{bar(mean)}</td></tr>")
        out.append("</table>")
    for suite in suites.values():
        out += section(suite)
    return "\n".join(out) + "\n"


def said(command):
    """The first line a program prints; "unknown" if there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def machine_now(date, seconds, command):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":", 1)[1].strip() for line in file
                      if line.startswith("model name")), "unknown")
    here = os.path.dirname(os.path.abspath(__file__))
    return {"date": date, "took": f"{int(seconds) // 60} min {int(seconds) % 60} s",
            "command": command,
            "ringshift": said(["git", "-C", here, "describe", "--always", "--dirty"]),
            "processor": f"{model}, {len(os.sched_getaffinity(0))} of them",
            "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 30} GiB",
            "host kernel": platform.release(),
            "load at the end": f"{os.getloadavg()[1]:.1f} in five minutes",
            "QEMU": said(["qemu-system-x86_64", "--version"])}


def main():
    about = sys.argv[2:5] if sys.argv[1:2] == ["--about"] and len(sys.argv) == 6 else None
    if not about and len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = sys.argv[-1]
    suites, machine = load(directory), machine_now(*about) if about else {}
    for key, value in machine.items():
        print(f"{key}: {value}")
    for suite in suites.values():
        print_table(suite)
    print_standing(suites)
    with open(os.path.join(directory, "results.json"), "w", encoding="utf-8") as file:
        json.dump({"machine": machine, "suites": {n: s.as_json() for n, s in suites.items()}}, file,
                  indent=1)
    write_csv(os.path.join(directory, "results.csv"), suites)
    for name, text in (("index.html", page(suites, machine)),
                       ("results.md", "\n".join(markdown(suites, machine)))):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
