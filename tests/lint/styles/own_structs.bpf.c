/* bpf_probe_read_* into and from the program's own structures, user memory, scratch space in a map. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct header {
	u32 magic;
	u32 length;
};

struct scratch {
	struct header header;
	char text[200];
	struct scratch *next;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

SEC("uprobe")
int BPF_KPROBE(on_write, struct header *header, const char *text)
{
	struct scratch *space;
	struct header copy;
	u32 zero = 0, first;

	if (bpf_probe_read_user(&copy, sizeof(copy), header))
		return 0;
	space = bpf_map_lookup_elem(&scratch, &zero);
	if (!space)
		return 0;
	space->header = copy;
	if (space->header.magic != 0x464c457f)
		return 0;
	if (bpf_probe_read_user(&first, sizeof(first), (char *)header + 8))
		return 0;
	bpf_probe_read_user_str(space->text, sizeof(space->text), text + 16);
	return first != space->header.length;
}

char LICENSE[] SEC("license") = "GPL";
