// SPDX-License-Identifier: GPL-2.0-or-later
/* Prints to a PL011, by polling. */
#include "format.h"
#include "guest.h"

enum {
	DR = 0x00,
	FR = 0x18,
	FR_TXFE = 1 << 7,
	LCR_H = 0x2c,
	LCR_H_FEN = 1 << 4,
	LCR_H_8_BITS = 3 << 5,
	FIFO = 16, /* bytes that the smallest PL011 holds */
};

static u32 room;	/* bytes that the FIFO can still take for certain */

static volatile u32 *reg(u32 offset)
{
	return (u32 *)(board.uart + offset);
}

void console_init(void)
{
	if (board.uart)
		*reg(LCR_H) = LCR_H_FEN | LCR_H_8_BITS;
}

/* Reading the flags may cost an exit, so do it once for each FIFO full of bytes. */
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

void print(const char *text, ...)
{
	va_list args;

	va_start(args, text);
	format(put, text, &args);
	va_end(args);
}
