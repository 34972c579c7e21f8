// SPDX-License-Identifier: GPL-2.0-or-later
/* A PL011 or a 16550 that polls, and the evidence of the case that runs. */
#include "conf.h"
#include "format.h"

enum {
	PL011_DR = 0x00,
	PL011_FR = 0x18,
	PL011_FR_TXFE = 1 << 7,
	PL011_LCR_H = 0x2c,
	PL011_LCR_H_FIFO_8_BITS = 1 << 4 | 3 << 5,
	PL011_FIFO = 16,	/* bytes that the smallest PL011 holds */
	NS16550_THR = 0,
	NS16550_LSR = 5,
	NS16550_LSR_THRE = 1 << 5,
	PATIENCE = 100000,	/* how often to look at a transmitter that does not get ready */
	NOTES = 4096,
};

static u32 room, used;
static bool deaf;	/* it never got ready: do not wait for it again */
static char notes[NOTES];

static u32 uart_read(u32 offset)
{
	u64 at = conf_board.uart + offset;
	u32 value;

	if (conf_board.uart_width == 4)
		asm volatile("ldr %w0, [%1]" : "=r"(value) : "r"(at) : "memory");
	else if (conf_board.uart_width == 2)
		asm volatile("ldrh %w0, [%1]" : "=r"(value) : "r"(at) : "memory");
	else
		asm volatile("ldrb %w0, [%1]" : "=r"(value) : "r"(at) : "memory");
	return value;
}

static void uart_write(u32 offset, u32 value)
{
	u64 at = conf_board.uart + offset;

	if (conf_board.uart_width == 4)
		asm volatile("str %w0, [%1]" : : "r"(value), "r"(at) : "memory");
	else if (conf_board.uart_width == 2)
		asm volatile("strh %w0, [%1]" : : "r"(value), "r"(at) : "memory");
	else
		asm volatile("strb %w0, [%1]" : : "r"(value), "r"(at) : "memory");
}

void conf_console_init(void)
{
	if (conf_board.uart_kind == UART_PL011)
		uart_write(PL011_LCR_H, PL011_LCR_H_FIFO_8_BITS);
}

static void put(char c)
{
	if (conf_board.uart_kind == UART_PL011) {
		/* Reading the flags may cost an exit, so do it once for each FIFO full of bytes. */
		for (u32 i = 0; !room && !deaf; i++) {
			if (uart_read(PL011_FR) & PL011_FR_TXFE)
				room = PL011_FIFO;
			deaf = i == PATIENCE;
		}
		room -= !!room;
		uart_write(PL011_DR, (unsigned char)c);
	} else if (conf_board.uart_kind == UART_NS16550) {
		for (u32 i = 0; !deaf; i++) {
			if (uart_read(NS16550_LSR << conf_board.uart_shift) & NS16550_LSR_THRE)
				break;
			deaf = i == PATIENCE;
		}
		uart_write(NS16550_THR, (unsigned char)c);
	}
}

static void put_note(char c)
{
	if (used < NOTES - 1)
		notes[used++] = c;
}

void conf_print(const char *text, ...)
{
	va_list args;

	va_start(args, text);
	format(put, text, &args);
	va_end(args);
}

void conf_note(const char *text, ...)
{
	va_list args;

	va_start(args, text);
	format(put_note, text, &args);
	va_end(args);
}

const char *conf_notes_take(void)
{
	/* If the last line did not fit, drop all of it. */
	while (used && notes[used - 1] != '\n')
		used--;
	notes[used] = 0;
	used = 0;
	return notes;
}
