#!/usr/bin/env python3
"""What bench/figures.py and bench/report.py make of figures."""
import os
import re
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bench"))
import report  # noqa: E402
from figures import Row, Suite, show, show_ratio  # noqa: E402


class Arithmetic(unittest.TestCase):
    def setUp(self):
        self.row = Row("a row", "µs", {"bt": [4.0, 1.0, 2.0], "tcg": [8.0, 10.0], "none": []})

    def test_median_is_the_middle_or_between_two(self):
        self.assertEqual(self.row.median("bt"), 2.0)
        self.assertEqual(self.row.median("tcg"), 9.0)

    def test_spread_is_half_the_distance_of_the_extremes(self):
        self.assertEqual(self.row.spread("bt"), 75.0)  # 1 to 4 around 2
        self.assertAlmostEqual(self.row.spread("tcg"), 100 / 9)
        self.assertIsNone(Row("one", "s", {"bt": [3.0]}).spread("bt"))

    def test_ratio_is_our_time_by_theirs(self):
        self.assertAlmostEqual(self.row.ratio("tcg"), 2 / 9)

    def test_ratio_of_rates_is_one_of_times(self):
        rates = Row("a rate", "MB/s", {"bt": [200.0], "tcg": [50.0]})
        self.assertEqual(rates.ratio("tcg"), 0.25)

    def test_a_missing_engine_has_no_figures(self):
        for engine in ("uml", "none"):
            self.assertIsNone(self.row.median(engine))
            self.assertIsNone(self.row.spread(engine))
            self.assertIsNone(self.row.ratio(engine))
        self.assertIsNone(Row("not ours", "s", {"tcg": [1.0]}).ratio("tcg"))

    def test_nothing_is_divided_by_zero(self):
        zero = Row("zero", "µs", {"bt": [0.0], "tcg": [0.0]})
        self.assertIsNone(zero.ratio("tcg"))
        self.assertIsNone(zero.spread("bt"))

    def test_three_digits_count(self):
        self.assertEqual([show(v) for v in (None, 0.12345, 12.345, 123.45, 12345.6)],
                         ["", "0.123", "12.3", "123", "12346"])


def example():
    suite = Suite("Example <1>", "tcg")
    for engine, name, figure in (("bt", "won", 1.0), ("tcg", "won", 4.0), ("bt", "lost", 4.0),
                                 ("tcg", "lost", 2.0), ("uml", "theirs & alone", 1.0)):
        suite.add(engine, name, figure, "s")
    suite.note("No column for KVM")
    suite.note("No column for KVM")
    return suite


class Report(unittest.TestCase):
    def test_who_wins(self):
        won, lost, mean = report.standing(example(), "tcg")
        self.assertEqual((won, lost), (1, ["lost (2.00)"]))
        self.assertAlmostEqual(mean, 0.5 ** 0.5)  # of 1/4 and 2
        self.assertIsNone(report.standing(Suite("empty", "tcg"), "tcg"))

    def test_each_other_has_a_standing_of_its_own(self):
        boot = Suite("Boot", "microvm")
        for engine, figure in (("bt", 1.0), ("microvm", 3.0), ("host", 0.1)):
            boot.add(engine, "a row", figure, "s")
        user = example()
        user.add("uml", "won", 0.5, "s")
        found = {other: [(suite.heading, won, lost) for suite, won, lost, _ in standings]
                 for other, standings in report.standings({"boot": boot, "user": user})}
        self.assertEqual(found, {"QEMU TCG": [("Boot", 1, []), ("Example <1>", 1, ["lost (2.00)"])],
                                 "UML": [("Example <1>", 0, ["won (2.00)"])]})

    def test_the_host_is_compared_with_where_it_has_figures(self):
        suite = example()
        self.assertEqual(suite.others(), ["tcg", "uml"])
        suite.add("host", "won", 0.5, "s")
        self.assertEqual(suite.others(), ["tcg", "uml", "host"])
        self.assertEqual(suite.ratios(suite.rows["won"]), [0.25, None, 2.0])
        self.assertEqual(suite.ratios(suite.rows["lost"]), [2.0, None, None])
        self.assertEqual([show_ratio(r) for r in (None, 0.00321, 0.256, 3.0, 123.4)],
                         ["", "0.0032", "0.26", "3.00", "123"])

    def test_a_suite_comes_back_from_its_file(self):
        with tempfile.TemporaryDirectory() as work:
            example().write(os.path.join(work, "user.json"))
            suites = report.load(work)
        self.assertEqual(list(suites), ["user"])
        self.assertEqual(suites["user"].as_json(), example().as_json())
        self.assertEqual(suites["user"].notes, ["No column for KVM"])
        self.assertEqual(suites["user"].engines(), ["bt", "tcg", "uml"])

    def test_bars_end_where_the_scale_does(self):
        self.assertEqual(report.bar(None), "")
        for share in (1e-9, 0.5, 1.0, 2.0, 1e9):
            x, width = (float(report.bar(share).rpartition("<rect")[2].split(f'{what}="')[1]
                              .split('"')[0]) for what in (" x", " width"))
            self.assertGreaterEqual(x, 0)
            self.assertLessEqual(x + width, report.WIDTH)

    def test_the_page_shows_every_row_and_needs_nothing_else(self):
        page = report.page({"user": example()}, {"processor": "a <fast> one"})
        for text in ("Example &lt;1&gt;", "theirs &amp; alone", "a &lt;fast&gt; one",
                     "No column for KVM", "UML"):
            self.assertIn(text, page)
        self.assertNotIn("http", page)
        won = page[page.index("<td>won</td>"):].split("</tr>")[0]
        self.assertEqual(re.findall(r"<td[^>]*>([^<]*)<", won),
                         ["won", "s", "1", "4", "", "", "0.25", "", ""])

    def test_the_tables_for_a_document(self):
        lines = "\n".join(report.markdown({"user": example()}, {"load": "none"})).splitlines()
        for line in ("| load | none |", "| Example <1> | 1 | 1 | 0.71 | lost (2.00) |",
                     "| won, s | 1 | 4 |  |  | 0.25 |  |", "No column for KVM."):
            self.assertIn(line, lines)

    def test_the_csv_has_a_line_for_each_engine(self):
        with tempfile.TemporaryDirectory() as work:
            path = os.path.join(work, "results.csv")
            report.write_csv(path, {"user": example()})
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        self.assertEqual(len(lines), 6)
        self.assertEqual(lines[2], "user,won,s,QEMU TCG,4.0,4.0,4.0,1,0.25")


if __name__ == "__main__":
    unittest.main()
