"""``python -m anprompt``, or ``python CHECKOUT/anprompt`` from any folder, as the scripts call it."""

import sys
from pathlib import Path

if not __package__:  # called by the path of its folder, whose modules are none to be imported by themselves
    sys.path[0] = str(Path(__file__).absolute().parent.parent)

from anprompt.cli import main

sys.exit(main())
