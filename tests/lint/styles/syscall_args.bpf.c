/* System calls by their symbols' wrapper: the registers come from PT_REGS_…, on both arches; code for each arch in its branch. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#if defined(__TARGET_ARCH_x86)
#define STACK(ctx) ((ctx)->sp)
#elif defined(__TARGET_ARCH_arm64)
#define STACK(ctx) (((struct user_pt_regs *)(ctx))->sp)
#endif

SEC("kprobe/do_sys_openat2")
int BPF_KPROBE(on_open, int fd, const char *name)
{
	char start[16];

	if (bpf_probe_read_user_str(start, sizeof(start), name) < 0)
		return 0;
	return fd + (STACK(ctx) != 0) + (PT_REGS_IP(ctx) != 0);
}

SEC("kretprobe/do_sys_openat2")
int on_return(struct pt_regs *ctx)
{
	return PT_REGS_RC(ctx) != 0 && PT_REGS_PARM1_CORE(ctx) != 0;
}

#ifdef __TARGET_ARCH_x86
SEC("tracepoint/syscalls/sys_enter_open")
int on_old_open(struct trace_event_raw_sys_enter *ctx)
{
	return ctx->args[0] != 0;
}
#endif

char LICENSE[] SEC("license") = "GPL";
