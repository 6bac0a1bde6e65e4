"""Figures of runs: what their median, spread and ratio are, and how they stand in a table.

A row has a name, a unit and, for each engine, the figures of its runs. A ratio is always of times,
ringshift's by the other's: below 1 ringshift is faster, also where the figures are rates.
"""
import json
import statistics

OURS = "bt"
TITLES = {"bt": "ringshift", "step": "stepped", "tcg": "QEMU TCG", "microvm": "QEMU TCG",
          "pc": "TCG, -M pc", "kvm": "QEMU KVM", "uml": "UML", "host": "host"}
RATES = ("MB/s", "op/s")  # units of which more is better


def title(engine):
    return TITLES.get(engine, engine)


class Row:
    def __init__(self, name, unit, figures=None):
        self.name, self.unit, self.figures = name, unit, figures or {}

    def add(self, engine, figure):
        self.figures.setdefault(engine, []).append(figure)

    def median(self, engine):
        """None without a figure."""
        figures = self.figures.get(engine)
        return statistics.median(figures) if figures else None

    def spread(self, engine):
        """Half the distance of the extremes, in per cent of the median: 5 stands for +- 5 %.

        None for a single run, which has none."""
        figures, middle = self.figures.get(engine, []), self.median(engine)
        if len(figures) < 2 or not middle:
            return None
        return 50 * (max(figures) - min(figures)) / middle

    def ratio(self, other, ours=OURS):
        """Our time by the other engine's; None if one of them has no figure."""
        mine, theirs = self.median(ours), self.median(other)
        if not mine or not theirs:
            return None
        return theirs / mine if self.unit in RATES else mine / theirs


class Suite:
    """Rows under one heading; ratios are of the engine ours, by the engine baseline."""

    def __init__(self, heading, baseline, ours=OURS):
        self.heading, self.baseline, self.ours = heading, baseline, ours
        self.rows, self.notes = {}, []

    def add(self, engine, name, figure, unit):
        self.rows.setdefault(name, Row(name, unit)).add(engine, figure)

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def engines(self):
        return list(dict.fromkeys(e for row in self.rows.values() for e in row.figures))

    def others(self):
        """Engines that ratios are of: the baseline, and UML and the host if they have figures."""
        found = self.engines()
        return [self.baseline] + [e for e in ("uml", "host") if e in found and e != self.baseline]

    def ratios(self, row):
        """One for each of others()."""
        return [row.ratio(other, self.ours) for other in self.others()]

    def write(self, path):
        with open(path, "w", encoding="utf-8") as out:
            json.dump(self.as_json(), out, indent=1)
            out.write("\n")

    def as_json(self):
        return {"heading": self.heading, "baseline": self.baseline, "notes": self.notes,
                "rows": [{"name": row.name, "unit": row.unit, "figures": row.figures}
                         for row in self.rows.values()]}


def read_suite(path):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    suite = Suite(data["heading"], data["baseline"])
    suite.notes = data["notes"]
    suite.rows = {r["name"]: Row(r["name"], r["unit"], r["figures"]) for r in data["rows"]}
    return suite


def show(value):
    """Three digits that count, or nothing."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def show_ratio(share):
    if share is None:
        return ""
    return f"{share:.2f}" if 0.1 <= share < 100 else f"{share:.2g}" if share < 1 else f"{share:.0f}"


def print_table(suite, only=None):
    """only: names of rows; none: all."""
    engines = suite.engines()
    print(f"\n{suite.heading}")
    print(f"{'':44}" + "".join(f"{title(e):>12}" for e in engines) + f"{'spread':>9}" +
          "".join(f"{'of ' + title(e).split()[-1]:>9}" for e in suite.others()))
    for row in suite.rows.values():
        if only and row.name not in only:
            continue
        spread = row.spread(suite.ours)
        print(f"{row.name + ', ' + row.unit:44}" +
              "".join(f"{show(row.median(e)):>12}" for e in engines) +
              f"{'' if spread is None else f'+-{spread:.0f} %':>9}" +
              "".join(f"{show_ratio(share):>9}" for share in suite.ratios(row)))
    for note in suite.notes:
        print(f"  {note}")
