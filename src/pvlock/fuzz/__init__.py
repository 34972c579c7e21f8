# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile guests: a guest that does random things (guest/fuzz), and what the host must keep up.

case.py draws a machine from a seed, play.py runs it and judges, campaign.py runs many of them.
"""
