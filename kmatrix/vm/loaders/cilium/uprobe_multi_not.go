//go:build !uprobe_multi

package main

import (
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

func attachUprobeMulti(_ *link.Executable, _ string, _ *ebpf.Program, _ bool) (io.Closer, error) {
	return nil, lacks(`SEC("uprobe.multi/…")`)
}
