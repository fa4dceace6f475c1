"""A file a job.

As a package, this folder is found
before another one of its name.
"""

__all__ = ["command_line", "stand_ins"]
