"""Simulated recordings in the competition's on-disk format, with the noiseless rate known.

`movies` renders what is shown, `neurons` simulates the animal, `mouse` writes it all. Every draw is a function of the
seed and of what is drawn, so mice can be made one by one, in any order, and still see the same videos. `exact` keeps
every byte the same on every processor.
"""
