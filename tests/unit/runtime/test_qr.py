"""The QR code against one made by another program, and against its own rules."""

import pytest

from runtime.claim import qr

TEXT = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234"

# By segno 1.6: version 2, level Q, mask 0.
EXPECTED = (
    "#######.#.##.#..#.#######",
    "#.....#.#..#.###..#.....#",
    "#.###.#.##..#..#..#.###.#",
    "#.###.#.#.#.##....#.###.#",
    "#.###.#.#..####.#.#.###.#",
    "#.....#....#...#..#.....#",
    "#######.#.#.#.#.#.#######",
    "........###.#.#.#........",
    ".##.#.##..#.#####.#.#####",
    ".#..##.#....##..#...##...",
    "#######.###..##..###...##",
    ".#.#.#.###.#.#.#.##.####.",
    "..######.#....##..#....##",
    ".##.##.#####...#####.#...",
    "#..#.##...#..##....#.###.",
    ".###...#..#.##...#.#...#.",
    "#..##.##.#.#.#..########.",
    "........##.#.##.#...#....",
    "#######.##...##.#.#.##...",
    "#.....#...#.#.###...##.##",
    "#.###.#.###..#..#####.##.",
    "#.###.#...#...###.#.####.",
    "#.###.#.####......####..#",
    "#.....#.#...###..##..#.##",
    "#######..#..#..#...#.#..#",
)


def test_it_is_what_another_encoder_makes() -> None:
    rows = ["".join("#" if dark else "." for dark in row) for row in qr.matrix(TEXT)]
    assert rows == list(EXPECTED)


def test_it_is_drawn_light_on_dark_with_a_quiet_zone() -> None:
    lines = list(qr.draw(TEXT))
    assert len(lines) == 15
    assert {len(line) for line in lines} == {29}
    assert set("".join(lines)) <= set("█▀▄ ")
    assert lines[0] == "█" * 29
    # The upper left corner: quiet zone, and the outer ring with what lies in it.
    assert lines[1].startswith("██ ▄▄▄▄▄ █")
    assert lines[-1] == "▀" * 29


@pytest.mark.parametrize("text", ["A" * 30, "lower", "Ä", "A_B"])
def test_what_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="at most"):
        qr.matrix(text)
