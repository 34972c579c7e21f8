/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the publisher is compared with (docs/decisions/0008): each writes the same flags. */
#include "publisher.bpf.c"

/* The least that a program on this hook costs. */
SEC("tp_btf/sched_switch")
int empty(struct sched_switch *args)
{
	(void)args;
	return 0;
}

/* The publisher without its comparison of processes. */
SEC("tp_btf/sched_switch")
int lookup(struct sched_switch *args)
{
	publish(args->prev, 1);
	publish(args->next, 0);
	return 0;
}

/* KVM's own hooks: only a VCPU that is put on a CPU, or taken off, comes here. */
SEC("fentry/kvm_arch_vcpu_load")
int load(void *args)
{
	(void)args;
	publish(bpf_get_current_task_btf(), 0);
	return 0;
}

SEC("fentry/kvm_arch_vcpu_put")
int put(void *args)
{
	(void)args;
	publish(bpf_get_current_task_btf(), 1);
	return 0;
}
