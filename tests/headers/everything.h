/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every name of the headers, as the standard's reader writes it; to be included after them. */
SEC("kprobe/vfs_open")
int on_kprobe(struct pt_regs *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	unsigned long sum = get_arg0(ctx) + get_arg1(ctx) + get_arg2(ctx) + get_arg3(ctx) + get_arg4(ctx) + get_arg5(ctx);

	INIT_CORE_COMPAT();
#ifndef CORE_COMPAT_FALLBACK
	REQUIRE_CORE_FEATURES(CORE_FEAT_BTF | CORE_FEAT_RINGBUF | CORE_FEAT_TASK_CGROUPS | CORE_FEAT_PROBE_READ_KERNEL |
			      CORE_FEAT_CURRENT_TASK_BTF | CORE_FEAT_TASK_STORAGE);
#endif
	if (g_core_features.has_btf && g_core_features.has_ringbuf && g_core_features.has_task_cgroups)
		bpf_debug_printk("cgroup %llu of %d, %d", safe_cgroup_id_extraction(task), 1, bpf_ntohs(2));
	bpf_debug_printk("nothing more");
	return sum == get_return_value(ctx);
}

SEC("cgroup_skb/ingress")
int on_packet(struct __sk_buff *skb)
{
	INIT_CORE_COMPAT_FOR(cgroup_skb);
#ifndef CORE_COMPAT_FALLBACK
	REQUIRE_CORE_FEATURES(CORE_FEAT_RINGBUF);
#endif
	return skb->len > 0;
}

#if defined(ARCH_X86_64) == defined(ARCH_ARM64)
#error "one arch, and not both"
#endif

char LICENSE[] SEC("license") = "Dual BSD/GPL";
