"""Numbers in tables, short."""

from experiments.system.text_table import count, duration


def test_numbers_are_readable():
    assert [count(x) for x in (5, 1234, 1.5e6, 2.27e9, 6e18)] == [
        "5",
        "1.23k",
        "1.5M",
        "2.27G",
        "6e+06T",
    ]
    assert [duration(x) for x in (3, 119, 600, 7300, 1e6)] == [
        "3 s",
        "119 s",
        "10 min",
        "2.0 h",
        "12 days",
    ]
