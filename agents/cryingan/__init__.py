"""CryinGAN: a generator of crystals with a fixed cell, composition and number of atoms.

Source: Yong, Su & Ertekin, Digital Discovery 3, 1889 (2024). The published networks are in :mod:`.published`; the
default ones, which learn in minutes what those do not learn in hours on one core, in :mod:`.generator` and
:mod:`.critics`.
"""
