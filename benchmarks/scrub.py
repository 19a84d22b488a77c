"""Taking out of a text what belongs to a machine, so that results can be kept with the code."""

import getpass
import platform
import re
import sys
import tempfile
from pathlib import Path


class Scrubber:
    """Takes out of a text what belongs to a machine: its paths, its name and its user's."""

    def __init__(self, root: Path, python: Path) -> None:
        site = [path for path in sys.path if path.endswith("-packages")]
        places = {f"{root}/": "", f"{root}": ".", **dict.fromkeys(site, "site-packages"), f"{python}": "python"}
        places |= {tempfile.gettempdir(): "<temporary>", str(Path.home()): "~"}
        names = [place for place in sorted(places, key=len, reverse=True) if len(place) > 1]
        self._places = places
        self._known = re.compile("|".join(rf"{re.escape(name)}(?:(?<=/)|(?![\w.-]))" for name in names))
        # Any other absolute path keeps its last name. Not a fraction such as us/step, nor an address.
        self._path = re.compile(r"(?<![\w.~:/<>-])/(?:[\w.+@-]+/)+([\w.+@-]*)")
        who = {platform.node(), platform.node().split(".")[0], _user()} - {"", "localhost", "root", "nobody"}
        self._who = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in who)) if who else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        text = self._known.sub(lambda found: self._places[found[0]], text)
        text = self._path.sub(r"<path>/\1", text)
        return self._who.sub("<name>", text) if self._who else text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
