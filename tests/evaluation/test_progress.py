import io
from itertools import count

from rich.console import Console

from vla_tune.evaluation.progress import Progress, over_tasks, progress
from vla_tune.evaluation.stats import wilson_interval


def test_it_tells_the_rate_so_far_with_its_interval_and_the_time_left(records_of):
    told = []
    records = records_of([1, 1, 0, 1])
    ticking = count(0, 10)  # an episode takes 10 s
    far = Progress(10, lambda *said: told.append(said), clock=lambda: next(ticking))
    far.know(records[:1])
    for record in records[1:]:
        far.watcher().finish(record)
    low, high = wilson_interval(3, 4)
    assert told[0] == (1, 10, "success 100 % (21 to 100)", None), "nothing was played yet"
    assert told[1] == (2, 10, "success 100 % (34 to 100)", 80.0)
    assert told[-1] == (4, 10, f"success 75 % ({100 * low:.0f} to {100 * high:.0f})", 60.0)
    assert not far.watcher().looks(0)


def shown(records, *, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    with progress("base", "lift", 6, done=records[:1], console=console) as far:
        for record in records[1:]:
            far.finish(record)
    return file.getvalue()


def test_over_several_tasks_all_are_counted_and_the_rate_is_the_policys_own(records_of, monkeypatch):
    monkeypatch.setattr("vla_tune.evaluation.progress._EVERY_S", 0.0)
    file = io.StringIO()
    records = records_of([1, 0, 1])
    with over_tasks("fine_tuned", 2, 12, console=Console(file=file, width=120)) as telling:
        with telling("fine_tuned", "lift", 3, done=records[:2]) as far, telling("blank_pictures", "touch", 3, done=[]) as other:
            other.finish(records[1])
            far.finish(records[2])
        telling.far.skip(3)
        with telling("fine_tuned", "touch", 3, done=records):
            pass
    assert [line.rpartition(", about")[0] for line in file.getvalue().splitlines()] == [
        "fine_tuned on 2 tasks: 3 of 12 episodes, success 50 % (9 to 91)",
        "fine_tuned on 2 tasks: 4 of 12 episodes, success 67 % (21 to 94)",
        "fine_tuned on 2 tasks: 7 of 9 episodes, success 67 % (30 to 90)",
    ]


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
