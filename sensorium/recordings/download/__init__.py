"""Downloads the competition's mice: fetches, checks, unpacks and publishes one zip per mouse.

`transfer` brings the bytes over any bad line, `archive` unpacks what may be hostile, `mouse` ties them together,
records what was unpacked and finds later changes.
"""
