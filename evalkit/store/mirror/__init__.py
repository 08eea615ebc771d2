"""Folders behind URLs: worked on in a local spool, sent up as they are written, with one writer at a time.

In: a URL that fsspec knows. Out: a local folder with exactly the store's own files.
Must not depend on: what a run is; everything else of evalkit sees the local folder alone.
"""

from evalkit.store.mirror.mirror import Mirror, brought_down, spool_folder
from evalkit.store.mirror.remote import is_url, shown_url

__all__ = ["Mirror", "brought_down", "is_url", "shown_url", "spool_folder"]
