"""``python -m anprompt``"""

import sys

from anprompt.cli import main

sys.exit(main())
