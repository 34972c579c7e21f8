// SPDX-License-Identifier: GPL-2.0-or-later
/* A PL011 that polls, and just enough of printf. */
#include <stdarg.h>

#include "guest.h"

enum {
	DR = 0x00,
	FR = 0x18,
	FR_TXFE = 1 << 7,
	LCR_H = 0x2c,
	LCR_H_FEN = 1 << 4,
	LCR_H_8_BITS = 3 << 5,
	FIFO = 16, /* bytes, of the smallest PL011 */
};

static u32 room;

static volatile u32 *reg(u32 offset)
{
	return (u32 *)(board.uart + offset);
}

void console_init(void)
{
	if (board.uart)
		*reg(LCR_H) = LCR_H_FEN | LCR_H_8_BITS;
}

/* Look at the flags, which may cost an exit, once for each FIFO full of bytes. */
static void put(char c)
{
	if (!board.uart)
		return;
	if (!room) {
		while (!(*reg(FR) & FR_TXFE))
			;
		room = FIFO;
	}
	*reg(DR) = c;
	room--;
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
