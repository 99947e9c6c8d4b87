"""Command-line options whose mistakes are one line, with a suggestion, and exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from worldmodel.errors import CONTROL, suggest


class OptionParser(argparse.ArgumentParser):
    """An argument parser that says mistakes in one line, and takes no abbreviations."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def list_options(self) -> list[str]:
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def refuse_control(self, argv: Sequence[str]) -> None:
        for word in argv:
            if CONTROL.search(word):
                self.error(f"no line breaks or control characters, got {ascii(word)[:80]}")

    def parse_words(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse options and words in any order; refuse control characters and unknown options."""
        self.refuse_control(argv)
        args, rest = self.parse_known_intermixed_args(argv)
        if rest:
            option = rest[0].partition("=")[0]
            if not option.startswith("-"):
                self.error(f"unexpected word {option!r}; {self.prog} --help says what it takes")
            hint = suggest(option, self.list_options())
            self.error(f"unknown option {option}{hint}; {self.prog} --help lists them")
        return args
