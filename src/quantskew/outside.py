"""What a study depends on outside of its parameters.

``dvc.yaml`` cannot know these paths: this package is installed anywhere, the others stand as values
in ``params.yaml``, most studies have none of them, and DVC refuses a dependency that is missing. So
the stage ``inputs`` runs every time, takes a moment, and writes digests of them, on which the other
stages depend:

===================================  ===========================================================
``data/inputs/quantskew.json``       the code of this package
``data/inputs/data/<data set>.json`` the user's own files: ``path`` and ``table`` of the source,
                                     or what lies for it among the downloads; the code of its reader
                                     where that is the user's own
``data/inputs/models/<model>.json``  the code of the factory and what it imports, the checkpoint
``data/inputs/methods.json``         the code of the user's own functions
``data/inputs/extensions.json``      the code of the user's own modules (``extensions``)
``data/inputs/answers.json``         what ``answers`` says, and its tables; a study need not have it
===================================  ===========================================================
"""

import json
from pathlib import Path
from typing import Any

from quantskew.engine.fingerprint import (
    LIBRARIES,
    defines,
    identity,
    outside,
    package_hash,
    tree_hash,
)
from quantskew.errors import UserError
from quantskew.files import write_json
from quantskew.layout import FOLDERS, INPUTS, NETWORKS
from quantskew.params import Params
from quantskew.sections import Code


def write_inputs(study: Params) -> None:
    """Write the digests; a file whose content is what it was is left as it is.

    A ``UserError`` names a parameter whose code or table is not there, before any work is done.
    """
    _refuse_missing_code(study)
    given = {
        str(path): (f"answers.{name}", path)
        for name, one in study.answers.items()
        for path in one.files().values()
    }
    for key, path in given.values():
        if not path.is_file():
            raise UserError(f"{key}: {path}: no such file")
    digests = {name: tree_hash(path) for name, (_, path) in given.items()}
    _write(INPUTS / "answers.json", {"settings": study.answers, "tables": digests})
    if not study.models:
        print("models: none, so nothing is trained, quantized or shipped; answers are judged")
        for stage in (*NETWORKS, "deploy", "evaluate"):  # of which DVC asks for the folders
            Path("data", FOLDERS[stage]).mkdir(parents=True, exist_ok=True)
    _write(INPUTS / "quantskew.json", {"sha256": package_hash()})
    for name in study.datasets:
        files = study.source(name).files(name, study.downloads)
        code = [Code(module) for module in _reader_modules(study, name)]
        digests = {str(path): tree_hash(path) for path in files}
        _write(INPUTS / "data" / f"{name}.json", digests | ({"reader": code} if code else {}))
    for name in study.models:
        _write(INPUTS / "models" / f"{name}.json", study.architectures.get(name))
    own = {name: method for name, method in study.all_methods().items() if method.function}
    _write(
        INPUTS / "methods.json", {name: method.identity()["code"] for name, method in own.items()}
    )
    _write(INPUTS / "extensions.json", [[name, Code(name)] for name in study.extensions])


def _reader_modules(study: Params, name: str) -> set[str]:
    """Module of the reader of a data set, where an extension defines it."""
    if not study.extensions:
        return set()
    from quantskew.data.sources import READERS

    reader = READERS.get(study.source(name).reader or name)
    return outside([reader] if reader else [])


def _refuse_missing_code(study: Params) -> None:
    named = {
        f"{section}.{name}.function": method.function
        for section in ("methods", "mitigations")
        for name, method in getattr(study, section).items()
    }
    named |= {
        f"architectures.{name}.factory": own.factory
        for name, own in study.architectures.items()
        if name in study.models and own.factory.partition(":")[0] not in LIBRARIES
    }
    for key, code in named.items():
        if code is not None and not defines(code):
            raise UserError(
                f"{key}: {code!r} cannot be found; it must be module:name of a module in the "
                "folder of the study, or of an installed one"
            )


def _write(path: Path, value: Any) -> None:
    digests = json.loads(json.dumps(identity(value)))
    if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != digests:
        write_json(path, digests)
