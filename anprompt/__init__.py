"""ANPrompt: anti-noise prompt tuning of CLIP, as a plugin for Dassl.

Importing this package makes ``import dassl`` work: an installed Dassl is used (and repaired where current
PyTorch and NumPy broke it), otherwise the bundled toolbox answers under that name. In the same way ``import clip``
works: an installed CLIP, otherwise an adapter over open_clip.
"""

from anprompt._version import __version__
from anprompt.compat.installed_clip import provide_clip
from anprompt.compat.installed_dassl import provide_dassl

provide_dassl()
provide_clip()

__all__ = ["__version__"]
