# SPDX-License-Identifier: GPL-2.0-or-later
"""What `pvlock explain` says of a trace: findings, tables and a picture. Needs NumPy."""
