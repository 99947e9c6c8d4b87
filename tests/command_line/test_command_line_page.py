"""The page with all help screens is up to date."""

import importlib.util

from runs import ROOT


def test_the_page_shows_the_screens_as_they_are():
    """After a change of one: `python docs/make_command_line.py`."""
    place = ROOT / "docs" / "make_command_line.py"
    spec = importlib.util.spec_from_file_location("make_command_line", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.format_page()
