"""Examples: a file a job. A package is found before another folder of the name examples."""

__all__ = ["command_line", "stand_ins"]  # what the other files import
