"""Make ``import clip`` work: an installed CLIP where there is one that works, otherwise the adapter that is bundled.

Trainer files of the CoOp family take OpenAI's ``clip``, whose published packages need a ``pkg_resources`` that current
setuptools no longer has; and the index has a ``clip`` that is something else altogether. Which of the two is installed
shows only when it is imported, which takes seconds. So that is tried when somebody asks for ``clip``, not before.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

logger = logging.getLogger(__name__)

# A folder of its own, not `toolbox/`: each of the two packages is offered only where the other search found none. At
# the end of `sys.path` it would still win over a CLIP installed with `pip install -e`, which is found through a hook.
ADAPTER = Path(__file__).resolve().parents[1] / "toolbox_clip"


def provide_clip() -> None:
    """Make ``clip`` importable. May be called again; imports nothing.

    Without an installed ``clip`` the adapter's folder goes to the end of ``sys.path``, from where worker processes
    inherit it. An installed one is tried when it is imported for the first time.
    """
    if "clip" in sys.modules or any(isinstance(finder, _Trial) for finder in sys.meta_path):
        return
    spec = importlib.util.find_spec("clip")
    if spec is None or spec.origin is None:  # no origin: a mere folder of that name, which gives way to a package
        sys.path.append(str(ADAPTER))
    elif ADAPTER not in Path(spec.origin).resolve().parents:
        sys.meta_path.insert(0, _Trial())


class _Trial:
    """The first to be asked for ``clip``: leaves it to the others if what they find works, else gives the adapter."""

    running = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "clip" or self.running:
            return None
        self.running = True
        try:
            module = importlib.import_module("clip.clip")
            _ = module.tokenize, module.load
        except Exception as error:  # importing another's package may fail in any way
            logger.warning(
                "the installed clip is not a CLIP that works (%s: %s): ANPrompt's adapter answers in its place. "
                "Repair or uninstall it to be rid of this message",
                type(error).__name__,
                error,
            )
            return PathFinder.find_spec("clip", [str(ADAPTER)])
        finally:  # the trial leaves no trace: what it imported is imported again
            self.running = False
            for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "clip"]:
                del sys.modules[loaded]
        return None
