"""ANPrompt: anti-noise prompt tuning of CLIP, as a plugin for Dassl.

Importing this package makes ``import dassl`` work: an installed Dassl is used (and repaired where current
PyTorch and NumPy broke it), otherwise the bundled toolbox answers under that name.
"""

from anprompt._version import __version__
from anprompt.compat import provide_dassl

provide_dassl()

__all__ = ["__version__"]
