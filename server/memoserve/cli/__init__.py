"""The command line: ``memoserve serve | demo | memorize | recall | retrieve | generate | ...``."""

from memoserve.cli.main import main as main
