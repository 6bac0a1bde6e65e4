#!/usr/bin/env python3
"""Put the figures of one scripts/bench run together.

    bench/report.py DIRECTORY

Reads nano.json, boot.json, user.json, macro.json and machine.json there (what is missing is left
out), prints one table, and writes results.json, results.csv and index.html, a page with bars that
needs nothing else. A ratio is ringshift's time by the other's: below 1 we are faster.
"""
import csv
import html
import json
import math
import os
import statistics
import sys

# Suite -> heading, unit, name of QEMU TCG there, and what else stands beside.
SUITES = {"boot": ("From the start to /init, Debian's cloud kernel", "s", "microvm"),
          "macro": ("A Debian at work", "s", "tcg"),
          "user": ("What programs ask of a kernel", "µs", "tcg"),
          "nano": ("What a kernel asks of its processor", "cycles", "TCG")}
OURS = "bt"
TITLES = {"bt": "ringshift", "tcg": "QEMU TCG", "TCG": "QEMU TCG", "microvm": "QEMU TCG", "uml": "UML",
          "host": "host", "native": "host", "step": "stepped", "pc": "TCG, -M pc", "kvm": "KVM"}

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:64em;padding:0 1em}
table{border-collapse:collapse;width:100%;margin:1em 0 2em}
th,td{padding:.25em .6em;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}
.bar{width:22em;text-align:left}
svg{display:block}.note{color:#777}"""


def load(directory):
    """Suite -> row -> engine -> list of figures."""
    found = {}
    for suite in SUITES:
        path = os.path.join(directory, suite + ".json")
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            found[suite] = rows_of(suite, json.load(file))
    return found


def rows_of(suite, data):
    rows = {}
    if suite == "nano":
        for engine, of in data["cycles"].items():
            for row, figures in of.items():
                rows.setdefault(row, {})[engine] = figures
    elif suite == "boot":
        for engine, runs in data["runs"].items():
            figures = [run["wall"] for run in runs if run]
            if figures:
                rows.setdefault("to /init", {})[engine] = figures
    else:
        for engine, runs in data.items():
            for run in runs:
                for row, figure in run.items():
                    rows.setdefault(row, {}).setdefault(engine, []).append(figure)
    return rows


def engines_of(rows):
    return list(dict.fromkeys(engine for row in rows.values() for engine in row))


def median(row, engine):
    return statistics.median(row[engine]) if row.get(engine) else None


def spread(figures):
    """Half the distance of the extremes, in per cent of the median."""
    return 50 * (max(figures) - min(figures)) / statistics.median(figures)


def ratio(row, other):
    ours, theirs = median(row, OURS), median(row, other)
    return ours / theirs if ours is not None and theirs else None


def show(value):
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def print_table(suites):
    for suite, rows in suites.items():
        heading, unit, tcg = SUITES[suite]
        engines = engines_of(rows)
        print(f"\n{heading} ({unit})")
        print(f"{'':40}" + "".join(f"{TITLES[e]:>12}" for e in engines) + "   of TCG  spread")
        for name, row in rows.items():
            share = ratio(row, tcg)
            print(f"{name:40}" + "".join(f"{show(median(row, e)):>12}" for e in engines) +
                  f"{'' if share is None else f'{share:.2f}':>9}" +
                  (f"{spread(row[OURS]):6.0f} %" if OURS in row else ""))


def write_csv(path, suites):
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["suite", "row", "unit", "engine", "median", "least", "most", "runs"])
        for suite, rows in suites.items():
            for name, row in rows.items():
                for engine, figures in row.items():
                    out.writerow([suite, name, SUITES[suite][1], TITLES[engine],
                                  statistics.median(figures), min(figures), max(figures),
                                  len(figures)])


def bar(share):
    """A log scale from 1/100 to 100; the line in the middle is 1."""
    if share is None:
        return ""
    width, middle = 340, 170
    x = middle + middle * max(-1, min(1, math.log10(share) / 2))
    colour = "#2a8" if share < 1 else "#c53"
    return (f'<svg width="{width}" height="14"><rect x="{min(x, middle):.1f}" y="2" height="10" '
            f'width="{abs(x - middle):.1f}" fill="{colour}"/>'
            f'<line x1="{middle}" x2="{middle}" y1="0" y2="14" stroke="#888"/></svg>')


def page(suites, machine):
    out = ["<!doctype html><meta charset=utf-8><title>ringshift: the comparison</title>",
           f"<style>{STYLE}</style><h1>ringshift: the comparison</h1>",
           "<p>" + "<br>".join(f"{html.escape(k)}: {html.escape(str(v))}"
                               for k, v in machine.items()) + "</p>",
           "<p class=note>Bars: ringshift's time by QEMU TCG's, on a log scale from 1/100 to 100; "
           "green, to the left, is faster.</p>"]
    for suite, rows in suites.items():
        heading, unit, tcg = SUITES[suite]
        engines = engines_of(rows)
        out.append(f"<h2>{html.escape(heading)}, {unit}</h2><table><tr><th></th>" +
                   "".join(f"<th>{TITLES[e]}</th>" for e in engines) +
                   "<th>of TCG</th><th class=bar></th></tr>")
        for name, row in rows.items():
            share = ratio(row, tcg)
            out.append(f"<tr><td>{html.escape(name)}</td>" +
                       "".join(f"<td>{show(median(row, e))}</td>" for e in engines) +
                       f"<td>{'' if share is None else f'{share:.2f}'}</td>"
                       f"<td class=bar>{bar(share)}</td></tr>")
        out.append("</table>")
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = sys.argv[1]
    suites = load(directory)
    machine = {}
    if os.path.exists(os.path.join(directory, "machine.json")):
        with open(os.path.join(directory, "machine.json"), encoding="utf-8") as file:
            machine = json.load(file)
    for key, value in machine.items():
        print(f"{key}: {value}")
    print_table(suites)
    with open(os.path.join(directory, "results.json"), "w", encoding="utf-8") as file:
        json.dump({"machine": machine, "suites": suites}, file, indent=1)
    write_csv(os.path.join(directory, "results.csv"), suites)
    with open(os.path.join(directory, "index.html"), "w", encoding="utf-8") as file:
        file.write(page(suites, machine))


if __name__ == "__main__":
    main()
