// SPDX-License-Identifier: GPL-2.0-or-later
/* A PL011 that polls, and just enough of printf. */
#include <stdarg.h>

#include "guest.h"

enum { DR = 0x00, FR = 0x18, FR_TXFF = 1 << 5 };

static void put(char c)
{
	volatile u32 *flags = (u32 *)(board.uart + FR);

	if (!board.uart)
		return;
	while (*flags & FR_TXFF)
		;
	*(volatile u32 *)(board.uart + DR) = c;
}

static void put_number(u64 value, u32 base)
{
	char digits[20];
	u32 n = 0;

	do
		digits[n++] = "0123456789abcdef"[value % base];
	while (value /= base);
	while (n)
		put(digits[--n]);
}

void print(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	for (; *format; format++) {
		if (*format != '%') {
			put(*format);
			continue;
		}
		switch (*++format) {
		case 's':
			for (const char *s = va_arg(args, const char *); *s; s++)
				put(*s);
			break;
		case 'u':
			put_number(va_arg(args, u32), 10);
			break;
		case 'l':
			put_number(va_arg(args, u64), *++format == 'x' ? 16 : 10);
			break;
		}
	}
	va_end(args);
}
