// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Maps that kernels do not make. lacks.bpf.c says how to read the comments. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define SIZES(NAME, TYPE, KEY, VALUE, ENTRIES)                                                                                  \
	struct {                                                                                                                \
		__uint(type, TYPE);                                                                                             \
		__uint(key_size, KEY);                                                                                          \
		__uint(value_size, VALUE);                                                                                      \
		__uint(max_entries, ENTRIES);                                                                                   \
	} NAME SEC(".maps")

// < 5.16: map-type: map type bloom_filter, since 5.16
SIZES(bloom, BPF_MAP_TYPE_BLOOM_FILTER, 0, 4, 10);
// < 5.8: map-type: map type ringbuf, since 5.8
SIZES(ring, BPF_MAP_TYPE_RINGBUF, 0, 0, 4096);
// < 5.8: map-type: map type ringbuf, since 5.8
// all: map-size: map keyed: a map of type ringbuf has no key and no value
SIZES(keyed, BPF_MAP_TYPE_RINGBUF, 4, 4, 4096);
// all: map-size: map unsized has max_entries = 0
SIZES(unsized, BPF_MAP_TYPE_HASH, 4, 4, 0);
// all: map-size: map wide: value_size = 65536: a value of a per-CPU map has 32768 bytes at most
SIZES(wide, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 65536, 1);
// all: map-size: map long_key: key_size = 8: the key of a map of type array is a number of 4 bytes
SIZES(long_key, BPF_MAP_TYPE_ARRAY, 8, 8, 4);
// all: map-flag: map trie: a map of type lpm_trie needs the flag BPF_F_NO_PREALLOC
SIZES(trie, BPF_MAP_TYPE_LPM_TRIE, 8, 8, 4);
// all: map-inner: map nothing_in_it: the map inside it could not be made, or none is given
SIZES(nothing_in_it, BPF_MAP_TYPE_HASH_OF_MAPS, 4, 4, 4);
// < 5.5: map-flag: map mapped: flag BPF_F_MMAPABLE, since 5.5
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} mapped SEC(".maps");

// < 5.8: map-type: map type ringbuf, since 5.8
SEC("tracepoint/sched/sched_process_exec")
int uses_ring(void *ctx)
{
	__u64 number = 1;

	return bpf_ringbuf_output(&ring, &number, sizeof(number), 0);
}

SEC("tracepoint/sched/sched_process_exec")
int uses_none(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
