"Results on the screen, as CSV, as a page, and read again; two systems side by side."
import csv
import json

import matplotlib.pyplot as plt
import pytest

from gwm_nb.benchmarks import protocol_result
from gwm_nb.reports import (caption, compare_results, read_results, results_csv, results_table,
                            write_results)
from inputs import refused


def result(protocol="published", convention="frames", facts=None, **values):
    "A result of sequences with these J in their frames."
    frames = lambda J: {f"{t:05d}": dict(J=v, F=v / 2) for t, v in enumerate(J)}
    of = {name: frames(J) for name, J in values.items()}
    return protocol_result(protocol, of, convention, "motion", "guided", facts)


def test_a_table_has_its_captions():
    results = [result(a=[.5, .7], b=[.9]), result("label-free", a=[.4, .4], b=[.1])]
    lines = results_table(results).splitlines()
    assert lines[0].split() == "published J published F label-free J label-free F".split()
    assert lines[1].split() == ["a", "0.600", "0.300", "0.400", "0.200"]
    assert lines[3].split()[:2] == ["mean", "0.700"] and lines[5:] == [*map(caption, results)]
    told = caption(results[0]).split("; ")
    assert {"looks at labels", "merged by motion", "polished by guided", "3 frames"} <= set(told)
    assert "merged" not in caption(results[1]) and "not look" in caption(results[1])
    assert "; ARI 0.250" in caption(results[1] | dict(ARI=.25))


def test_csv_stands_alone_and_is_no_formula():
    facts = dict(taken_as_one={"=a": 2}, missing_frames={"b": ["3", "4"]})
    found = result(facts=facts, **{"=a": [.5, .7], "b": [.9]})
    a, b, mean = csv.DictReader(results_csv([found]).splitlines())
    assert (a["sequence"], a["frames"], float(a["J"])) == ("'=a", "2", pytest.approx(.6))
    assert a["taken_as_one"] == "2 objects" and a["missing_frames"] == ""
    assert b["missing_frames"] == "3, 4" and float(b["F"]) == pytest.approx(.45)
    assert (mean["sequence"], mean["frames"], float(mean["J"])) == ("", "3", pytest.approx(.7))
    assert mean["missing_frames"] == "b (3, 4)" and mean["protocol"] == "published"


def test_side_by_side():
    a, b = result(one=[.5], two=[.9], three=[.1]), result(one=[.6], two=[.7], four=[.2])
    both = compare_results([a], [b, result("label-free", one=[1])], ("x", "y"))
    *_, one, two, last = both.splitlines()
    assert one.split() == ["one", "0.500", "0.600", "+0.100"] and two.split()[-1] == "-0.200"
    assert all(x in last for x in ("-0.050", "0.212", "y is better in 1 of 2", "left out: 2"))
    for other, value in ((result("per-sequence", a=[.5]), "protocol"),
                         (result(b=[.5]), "published"),
                         (result(convention="sequences", a=[.5]), "'sequences'.*--convention")):
        refused(lambda: compare_results([result(a=[.5])], [other], ("x", "y")), says=value)


def test_the_page_shows_the_best_the_median_and_the_worst(tmp_path):
    results, shown = [result(a=[.1], b=[.9], c=[.5])], []
    open_before = plt.get_fignums()
    write_results(tmp_path, results, "<title>", ["d"], lambda n: shown.append(n) or plt.figure())
    page = (tmp_path / "report.html").read_text()
    assert shown == ["b", "c", "a"] and plt.get_fignums() == open_before
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 3
    assert "&lt;title&gt;" in page and "http" not in page and caption(results[0])[:40] in page
    assert json.loads((tmp_path / "results.json").read_text())["missing"] == ["d"]
    refused(read_results, tmp_path / "nothing", says="--save", error=FileNotFoundError)
