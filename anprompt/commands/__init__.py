"""One file per command of ``python -m anprompt``, with ``add_parser(subparsers)`` and ``run(args) -> int``."""
