/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Just enough of printf: %s, %u (u32), %lu, %lx (u64). `put` gets the characters, one by one. The
 * functions are inline, so that a console that has one `put` makes no call through a pointer.
 */
#ifndef FORMAT_H
#define FORMAT_H

#include <stdarg.h>

#include "basics.h"

static inline void format_number(void (*put)(char), u64 value, u32 base)
{
	char digits[20];
	u32 n = 0;

	do
		digits[n++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (n)
		put(digits[--n]);
}

static inline void format(void (*put)(char), const char *text, va_list *args)
{
	for (; *text; text++) {
		if (*text != '%') {
			put(*text);
			continue;
		}
		switch (*++text) {
		case 's':
			for (const char *s = va_arg(*args, const char *); *s; s++)
				put(*s);
			break;
		case 'u':
			format_number(put, va_arg(*args, u32), 10);
			break;
		case 'l':
			format_number(put, va_arg(*args, u64), *++text == 'x' ? 16 : 10);
			break;
		}
	}
}

#endif
