"""Keep what is imported before this module out of garbage collection.

The fork server imports it last. A collection writes into every object that it looks at, and each
worker would soon have copies of most pages that it shares with the server: 100 MB a worker.
"""

import gc

gc.collect()
gc.freeze()
