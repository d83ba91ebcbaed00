"""One module per command of ``python -m anprompt``, named after it: ``add_parser(subparsers)`` and ``run(args)``."""
