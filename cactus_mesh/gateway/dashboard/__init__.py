"""The page that the gateway serves at ``/``, and the stream that keeps it live.

Knows nothing of where the picture comes from: a `feed.Picture` gives it.  Nothing here makes HTML.
"""
