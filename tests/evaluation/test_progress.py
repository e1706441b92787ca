import io
from itertools import count

from rich.console import Console

from vla_tune.evaluation.progress import Progress, progress
from vla_tune.evaluation.stats import wilson_interval


def test_it_tells_the_rate_so_far_with_its_interval_and_the_time_left(records_of):
    told = []
    records = records_of([1, 1, 0, 1])
    ticking = count(0, 10)  # an episode takes 10 s
    far = Progress(10, records[:1], lambda *said: told.append(said), clock=lambda: next(ticking))
    for record in records[1:]:
        far.finish(record)
    low, high = wilson_interval(3, 4)
    assert told[0] == (2, "success 100 % (34 to 100)", 80.0)
    assert told[-1] == (4, f"success 75 % ({100 * low:.0f} to {100 * high:.0f})", 60.0)
    assert not far.looks(0)


def shown(records, *, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    with progress("base on lift", 6, done=records[:1], console=console) as far:
        for record in records[1:]:
            far.finish(record)
    return file.getvalue()


def test_a_terminal_has_a_bar(records_of):
    said = shown(records_of([1, 0, 1, 1]), terminal=True)
    assert "base on lift" in said
    assert "4/6" in said
    assert "success 75 % (30 to 95)" in said


def test_a_log_has_a_line_now_and_then(records_of, monkeypatch):
    assert shown(records_of([1, 0, 1]), terminal=False) == ""
    monkeypatch.setattr("vla_tune.evaluation.progress._EVERY_S", 0.0)
    lines = shown(records_of([1, 0, 1]), terminal=False).splitlines()
    assert [line.rpartition(", about")[0] for line in lines] == [
        "base on lift: 2 of 6 episodes, success 50 % (9 to 91)",
        "base on lift: 3 of 6 episodes, success 67 % (21 to 94)",
    ]
