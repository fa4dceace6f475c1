"""What the examples share on the command line: options, errors in a line, and progress."""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import jina_ai_embeddings_demo as demo


class Parser(argparse.ArgumentParser):
    """Words a wrong option in one line, as `main` words any other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


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


class Progress(logging.Handler):
    """Shows how many texts are done and why a request waits, which a *logger* says: in a bar on
    a terminal if tqdm is there, else in a line every ten seconds."""
    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self.logger, self.why, self.bar, self.shown = logger, "", None, time.monotonic()
        with contextlib.suppress(ImportError):
            from tqdm import tqdm
            if sys.stderr.isatty():
                self.bar = tqdm(unit=" texts", dynamic_ncols=True, miniters=0)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.why = record.getMessage()

    def show(self, done: int) -> None:
        """Show that so many texts are *done*, unless a line was shown a moment ago."""
        if self.bar is not None:
            self.bar.set_postfix_str(self.why, refresh=False)
            self.bar.update(done - self.bar.n)
        elif time.monotonic() - self.shown > 10:
            self.shown = time.monotonic()
            print(f"{done} texts are done; {self.why}".strip("; "), file=sys.stderr)

    def close(self) -> None:
        self.logger.removeHandler(self)
        if self.bar is not None:
            self.bar.close()
        super().close()
