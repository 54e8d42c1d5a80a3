"""Put the files of a study into what is built; all else stands in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))


class WithStudy(build_py):
    """Copy them from the root of the repository, where a development install finds them."""

    def run(self) -> None:
        """Build the package, then add the files."""
        from quantskew.starting import PACKAGED, listed

        super().run()
        for name in () if self.editable_mode else listed(ROOT):
            target = Path(self.build_lib, "quantskew", PACKAGED, name)
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / name), str(target))

    def get_source_files(self) -> list[str]:
        """Name them, so that they are in the sdist too."""
        from quantskew.starting import listed

        return [*super().get_source_files(), *map(str, listed(ROOT))]


setup(cmdclass={"build_py": WithStudy})
