# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypervisors that are wrong on purpose, in one way each: they prove that the suite would tell.

catalogue.py has the list; the modules beside it what each does.
Nothing of them is in the package: they exist while `catalogue.switched_on` is open, in a test.
"""
