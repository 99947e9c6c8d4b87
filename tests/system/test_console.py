"""The progress line: time left, width, and how often it is printed."""

import io

from worldmodel.system import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_time_that_is_left_follows_from_what_this_command_did(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    stream = Terminal()
    bar = console.Progress(10, "playing", start=2, stream=stream)

    def draw_at(done, at):
        now[0] = 100.0 + at
        stream.truncate(0)
        bar.update(done)
        return stream.getvalue()

    assert "? left" in draw_at(2, 5)  # what an earlier command did says nothing of this one's pace
    line = draw_at(5, 9)
    assert "50%" in line and "0:09 elapsed" in line and "0:15 left" in line
    assert "0:00 left" in draw_at(10, 24)


def test_a_line_is_no_wider_than_the_terminal_and_the_whole_may_turn_out_larger(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    bar = console.Progress(10, "playing", stream=stream)
    bar.total = 40
    bar.update(20, "and more words than there is room for")
    line = stream.getvalue().removeprefix("\r\033[K")
    assert len(line) == 59 and " 50% " in line


def test_nothing_but_lines_now_and_then_where_there_is_no_terminal(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    bar = console.Progress(10, "playing", stream=stream)
    for second in range(31):
        now[0] = 100.0 + second
        bar.update(min(9, second))
    assert stream.getvalue().count("\n") == 2 and "\r" not in stream.getvalue()


def test_the_end_is_printed_at_once_and_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    bar = console.Progress(10, "playing", stream=stream)
    for second, done in enumerate([9, 10, 10, 10]):
        now[0] = 100.0 + second
        bar.update(done)
    assert stream.getvalue().count("100%") == stream.getvalue().count("\n") == 1
    bar.total = 20
    bar.update(12)
    bar.update(20)
    assert stream.getvalue().count("100%") == 2


def test_a_total_that_is_not_known_yet_is_no_reason_to_print_at_each_step(monkeypatch):
    monkeypatch.setattr(console.time, "monotonic", lambda: 100.0)
    stream = io.StringIO()
    bar = console.Progress(0, "playing", stream=stream)
    for _ in range(3):
        bar.update(0)
    assert stream.getvalue() == ""


def test_a_notebook_gets_carriage_returns_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    stream_class = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    stream = stream_class()
    bar = console.Progress(10, "playing", stream=stream)
    for tenth in range(31):
        now[0] = 100.0 + tenth / 10
        bar.update(min(9, tenth))
    bar.close()
    first, *lines = stream.getvalue().split("\r")
    assert first == "" and len(lines) == 4 and "\033" not in stream.getvalue()  # one in a second
    assert {len(line.rstrip("\n")) for line in lines} == {console.NOTEBOOK_WIDTH}
    assert stream.getvalue().endswith("\n")
