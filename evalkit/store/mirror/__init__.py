"""Folders behind URLs: worked on in a local spool, sent up as they are written, with one writer at a time.

In: a URL that fsspec knows. Out: a local folder with exactly the store's own files.
May not know: what a run is; everything else of evalkit sees the local folder alone.
"""

from evalkit.store.mirror.mirror import Mirror
from evalkit.store.mirror.reading import brought_down
from evalkit.store.mirror.remote import is_url, shown_url
from evalkit.store.mirror.spool import spool_folder

__all__ = ["Mirror", "brought_down", "is_url", "shown_url", "spool_folder"]
