"""The command line, ``propfan``. Every command is a thin layer over what a program can call."""

from propfan.engine.cli.app import main

__all__ = ["main"]
