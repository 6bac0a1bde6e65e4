#!/usr/bin/env python3
"""scripts/bench from end to end, with the suite that needs no kernel to boot: the nano guest under
ringshift and the same rows on the host, and what it leaves behind.

    nano_test.py scripts/bench BUILD
"""
import csv
import json
import os
import subprocess
import sys
import tempfile

RUNS = 2
ROWS = ("integer_loop", "cpuid", "page_fault", "timer_irq_halted")


def main():
    script, build = sys.argv[1:]
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([script, "--as-is", build, "--only", "nano", "--engines", "bt,host", "--runs",
                        str(RUNS), "--output", out], check=True)
        with open(os.path.join(out, "results.json"), encoding="utf-8") as file:
            results = json.load(file)
        rows = {row["name"]: row["figures"] for row in results["suites"]["nano"]["rows"]}
        for row in ROWS:
            assert len(rows[row]["bt"]) == RUNS and min(rows[row]["bt"]) >= 0, (row, rows[row])
        assert len(rows["integer_loop"]["host"]) == RUNS and "host" not in rows["cpuid"], rows
        assert results["machine"]["command"].startswith("scripts/bench"), results["machine"]
        with open(os.path.join(out, "results.csv"), encoding="utf-8") as file:
            lines = [line for line in csv.DictReader(file) if line["row"] == "integer_loop"]
        assert [line["engine"] for line in lines] == ["ringshift", "host"], lines
        with open(os.path.join(out, "index.html"), encoding="utf-8") as file:
            page = file.read()
        assert all(f"<td>{row}</td>" in page for row in ROWS), page


main()
