"""Keep what is imported before this module out of garbage collection.

The fork server imports it last. A collection writes into every object that it looks at, and each
worker would soon have copies of most pages that it shares with the server: 100 MB a worker. What
the imports have freed is given back, or each worker would fill it anew in pages of its own.
"""

import gc

from quantskew.engine.compute import give_back_freed_memory

give_back_freed_memory()
gc.freeze()
