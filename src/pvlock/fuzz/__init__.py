# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile guests: a guest that does random things (guest/fuzz), and what must hold all the same.

case.py draws a machine from a seed, play.py runs and judges it, campaign.py runs many of them.
"""
