"""What the examples share on the command line: options, errors in a line, and progress."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, Union

from sqlalchemy.exc import DBAPIError

import jina_ai_embeddings_demo as demo


class Parser(argparse.ArgumentParser):
    """Words a wrong option in one line, as `main` words any other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def whole_number(most: int) -> Callable[[str], int]:
    """Return the `type` of an option that takes a whole number from 1 to *most*."""
    def read(words: str) -> int:
        if words.isdecimal() and 1 <= int(words) <= most:
            return int(words)
        raise argparse.ArgumentTypeError(f"takes a whole number from 1 to {most}")
    return read


def main(run: Callable[[], None]) -> None:
    """Call *run*. An error ends in one line on stderr and exit status 1, as in the demo."""
    # SQLAlchemy's pool would log a traceback after Ctrl-C.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    if hasattr(sys.stdout, "reconfigure"):
        # A text may have a character that the console has not.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)

    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # A program such as `head` has read enough. Python would complain at its exit.
        os._exit(141)
    except Exception as error:
        sys.exit(f"error: {demo.one_line(error)}")


def error_number(error: DBAPIError) -> Any:
    """Return the number that TiDB gives an error."""
    return error.orig.args[0] if error.orig else None


# %% Progress
class Progress:
    """Shows on stderr how many texts are done, and why a request waits.

    On a terminal with the package tqdm this is a bar, and else a line every ten seconds.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.last_warning = LastWarning()
        self.display = choose_display()

    def __enter__(self) -> "Progress":
        self.logger.addHandler(self.last_warning)
        return self

    def __exit__(self, *error: object) -> None:
        self.logger.removeHandler(self.last_warning)
        self.display.close()

    def show(self, done: int) -> None:
        """Show that so many texts are done. Call it often, because time passes, too."""
        self.display.show(done, self.last_warning.words)

    def watch(self, request: Callable[..., Any]) -> Callable[..., Any]:
        """Return *request*, after which there is no more reason to wait if it succeeds."""
        def watched(*arguments: Any) -> Any:
            answer = request(*arguments)
            self.last_warning.words = ""
            return answer
        return watched


class LastWarning(logging.Handler):
    """Keeps what a logger said last, for example why a request waits."""

    words = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.words = record.getMessage()


class Bar:
    """Shows progress by a bar of tqdm."""

    def __init__(self, tqdm: Any) -> None:
        # With miniters=0, the bar's clock goes on while nothing is done.
        self.bar = tqdm(unit=" texts", dynamic_ncols=True, miniters=0)

    def show(self, done: int, why: str) -> None:
        self.bar.set_postfix_str(why, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


class Lines:
    """Shows progress by a line every ten seconds."""

    def __init__(self) -> None:
        self.shown = time.monotonic()

    def show(self, done: int, why: str) -> None:
        if time.monotonic() > self.shown + 10:
            self.shown = time.monotonic()
            words = f"{done} texts are done"
            if why:
                words += f"; {why}"
            print(words, file=sys.stderr)

    def close(self) -> None:
        pass


def choose_display() -> Union[Bar, Lines]:
    """Return a bar for a terminal if there is tqdm, and else lines."""
    try:
        from tqdm import tqdm
    except ImportError:
        return Lines()
    return Bar(tqdm) if sys.stderr.isatty() else Lines()
