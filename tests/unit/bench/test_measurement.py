"""Figures, their percentiles and their table."""

import json
from pathlib import Path

from bench.measurement import Measurement, p99, save, table


def measurement(value: float, bar: float | None) -> Measurement:
    return Measurement(name="boot", value=value, unit="ratio", bar=bar, method="by clock")


def test_a_value_above_its_bar_is_missed_and_one_at_it_is_not() -> None:
    assert measurement(2.6, 2.5).missed
    assert not measurement(2.5, 2.5).missed
    assert not measurement(99, None).missed


def test_the_99th_percentile_of_100_samples_is_the_99th() -> None:
    assert p99(list(range(1, 101))) == 99
    assert p99([3.0]) == 3.0


def test_the_table_marks_what_misses_its_bar() -> None:
    lines = table([measurement(2.6, 2.5), measurement(2.4, 2.5)]).splitlines()
    assert lines[1].endswith("MISSED")
    assert not lines[2].endswith("MISSED")


def test_the_file_is_a_list_of_name_value_unit_bar_and_method(tmp_path: Path) -> None:
    save([measurement(2.4, 2.5)], tmp_path / "bench.json")
    (kept,) = json.loads((tmp_path / "bench.json").read_text())
    assert kept == {"name": "boot", "value": 2.4, "unit": "ratio", "bar": 2.5, "method": "by clock"}
