"""What measures and shows, beside serving and training: commands/ alone imports it, so that neither of them needs it.

Inside, imports also go one way: demo/ (a small world of pictures, and the targets that see it) knows nothing of measuring; showcase.py
lists its targets; bench/ measures them and users' own; serving/ is a server with its clients; soak/ and inspection/ use these.
"""

import sys
from pathlib import Path

# `python -m` in a checkout puts its root on sys.path, where vLLM finds our triton_kernels/ and reports that it cannot be imported.
# Where the package is installed, that folder is site-packages and stays.
_ROOT = Path(__file__).resolve().parents[2]
if (_ROOT / "triton_kernels" / "loops.py").is_file():
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]
