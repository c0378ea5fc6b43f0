"""Provides the competition's mice: fetches, checks, unpacks and publishes one zip a mouse.

`transfer` brings the bytes over any bad line, `archive` unpacks what may be hostile, `manifest` notes
what was unpacked and finds later changes, `mouse` ties them together.
"""
