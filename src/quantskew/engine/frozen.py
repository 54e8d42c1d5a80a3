"""Keep what is imported before this module out of garbage collection.

The fork server imports it last. A collection writes into every object that it looks at, and each
worker would soon have copies of most pages that it shares with the server: 100 MB a worker. What
the imports have freed is given back, or each worker would fill it anew in pages of its own.

A worker that is being started when its stage ends finds that the locks are gone which they would
share. There is nobody left to whom it matters, so it says nothing.
"""

import gc
import sys
import traceback
from multiprocessing import synchronize
from types import TracebackType

from quantskew.engine.compute import give_back_freed_memory


def _print_unless_alone(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    if not (kind is FileNotFoundError and files[-1:] == [synchronize.__file__]):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _print_unless_alone
give_back_freed_memory()
gc.freeze()
