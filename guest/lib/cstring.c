// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the compiler calls by itself. The conformance guest is linked with this file too.
 *
 * KEPT: a guest that happens to need none of them has them all the same. Otherwise one more struct
 * that somebody initialises would move the code of a whole guest.
 */
#include <stddef.h>

#define KEPT __attribute__((used, retain))

KEPT void *memset(void *start, int value, size_t size)
{
	char *p = start;

	while (size--)
		*p++ = value;
	return start;
}

KEPT void *memcpy(void *to, const void *from, size_t size)
{
	char *t = to;
	const char *f = from;

	while (size--)
		*t++ = *f++;
	return to;
}
