//go:build uprobe_multi

package main

import (
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// attachUprobeMulti needs UprobeMulti of link.Executable, which cilium/ebpf has since 0.13.
func attachUprobeMulti(executable *link.Executable, function string, program *ebpf.Program, isReturn bool) (io.Closer, error) {
	if isReturn {
		return executable.UretprobeMulti([]string{function}, program, nil)
	}
	return executable.UprobeMulti([]string{function}, program, nil)
}
