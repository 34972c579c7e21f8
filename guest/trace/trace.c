// SPDX-License-Identifier: GPL-2.0-or-later
/* Finds the rings that the host offers, and names the locks. Only traced guests have it. */
#include "guest.h"

struct pvlock_trace_ring *trace_rings[MAX_VCPUS];

void trace_name(const volatile void *object, u64 size, const char *name)
{
	struct pvlock_trace_region *region = (void *)board.trace;
	struct pvlock_trace_name *entry;

	if (!board.trace_size || region->named == PVLOCK_TRACE_NAMES)
		return;
	entry = &region->names[region->named];
	entry->object = (u64)object;
	entry->size = size;
	for (u32 i = 0; i < sizeof(entry->name) - 1 && name[i]; i++)
		entry->name[i] = name[i];
	store_release(&region->named, region->named + 1);
}

void trace_init(void)
{
	struct pvlock_trace_region *region = (void *)board.trace;

	if (!board.trace_size)
		return;
	for (u32 i = 0; i < region->vcpus && i < MAX_VCPUS; i++)
		trace_rings[i] = (void *)(board.trace + region->rings + i * region->stride);
}
