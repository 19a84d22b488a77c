"""What earlier calls of `make gpu` have done: their files, in a folder that git ignores, and which part still holds.

A part that is proven is not run again while its sources, the GPU, torch and what golden.py decided stay the same.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from commands import Part
from verdicts import NOT_RUN, PROVEN, Outcome, Result

STATE, SUMMARY = "state.json", "summary.json"
CODE = {".py", ".cu", ".cuh", ".cpp", ".h"}
ADOPTED = Path("kernels/fewstep_kernels/measured.py")  # written from results, so no result is about it


def digest_of(root: Path, folders: Sequence[str]) -> str:
    """Of the code in some folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).glob("**/*")):
            name = path.relative_to(root)
            if path.suffix in CODE and name != ADOPTED:
                digest.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Progress:
    """The files of the parts that were run on a machine, and how each ended.

    Args:
        folder: holds them, made if it is not there; unpack a results.tar beside it to go on from that.
        root: of the tree.
        versions: what else a result depends on, such as torch's version.
    """

    def __init__(self, folder: Path, root: Path, versions: str) -> None:
        self.folder, self.root, self.versions = folder, root, versions
        folder.mkdir(parents=True, exist_ok=True)
        self.ended: dict[str, dict[str, str]] = self._read()

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found = json.loads((self.folder / STATE).read_text())
            return {str(name): {"status": str(each["status"]), "key": str(each["key"])} for name, each in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def key(self, part: Part) -> str:
        """What a result of this part is about, in short."""
        decided = "" if part.decides else self._exact_widths()
        return " ".join(filter(None, [digest_of(self.root, part.sources), self.versions, decided]))

    def _exact_widths(self) -> str:
        """The line that golden.py's answer sets."""
        try:
            lines = (self.root / ADOPTED).read_text().splitlines()
        except OSError:
            return ""
        return next((line.split("#")[0].strip() for line in lines if line.startswith("EXACT_WIDTHS")), "")

    def forget(self, name: str, part: Part) -> None:
        """Drop a part's files, so that no earlier report is taken for a new one."""
        self.ended.pop(name, None)
        for command in part.commands:
            for path in self.folder.glob(f"{command.name}.*"):
                path.unlink()
        (self.folder / f"{name}-result.json").unlink(missing_ok=True)

    def forget_all(self, parts: dict[str, Part]) -> None:
        """Begin anew with these parts."""
        for name, part in parts.items():
            self.forget(name, part)
            for command in part.commands:  # what a command keeps from call to call
                shutil.rmtree(self.folder / f"{command.name}-cells", ignore_errors=True)

    def forget_stale(self, parts: dict[str, Part]) -> None:
        """Drop what the tree or the machine has left behind."""
        for name, part in parts.items():
            if name in self.ended and self.ended[name]["key"] != self.key(part):
                self.forget(name, part)

    def begun(self, name: str) -> bool:
        """Whether an earlier call ran this part."""
        return name in self.ended

    def holds(self, name: str) -> bool:
        """Whether an earlier call proved this part, which then need not run again."""
        return self.begun(name) and self.ended[name]["status"] == PROVEN and self.result(name) is not None

    def result(self, name: str) -> Result | None:
        """What an earlier call found; None where its file is not there."""
        try:
            record = json.loads((self.folder / f"{name}-result.json").read_text())
            return Result(name, [Outcome(**each) for each in record["commands"]])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, name: str, part: Part) -> None:
        """Drop the part's files, and note that it was begun: whatever ends this call, the next begins with others."""
        self.forget(name, part)
        self.record(name, part, NOT_RUN)

    def record(self, name: str, part: Part, status: str) -> None:
        """Note how a part ended."""
        self.ended[name] = {"status": status, "key": self.key(part)}
        write_whole(self.folder / STATE, (json.dumps(self.ended, indent=1) + "\n").encode())

    def files(self) -> list[Path]:
        """All that there are; not the summary that a tar brought along."""
        found = (path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith("."))
        return sorted(path for path in found if path.name != SUMMARY)


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there whole, or as it was."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    temporary.replace(path)
