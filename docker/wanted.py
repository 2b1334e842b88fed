"""What one service asks for, a requirement a line: `python3 wanted.py EXTRA`, beside pyproject.toml.

So that an image's packages depend on pyproject.toml and the lock alone, and not on every line of the project.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print(*project["dependencies"], *project["optional-dependencies"][sys.argv[1]], sep="\n")
