"""What a reader of the examples sees on the command line: wrong options, and progress."""

import argparse
import contextlib
import logging
import sys
import time
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Words a wrong option in one line, as the demo's main words any other error."""
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


class Progress(logging.Handler):
    """Shows how many texts are done and why a request waits, which a *logger* says: in a bar on
    a terminal if tqdm is there, else in a line every ten seconds."""
    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self.logger, self.why, self.bar, self.shown = logger, "", None, time.monotonic()
        with contextlib.suppress(ImportError):
            from tqdm import tqdm  # type: ignore[import-untyped]
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
