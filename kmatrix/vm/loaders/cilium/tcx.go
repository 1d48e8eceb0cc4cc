//go:build tcx

package main

import (
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// attachTCX needs link.AttachTCX, which cilium/ebpf has since 0.13.
func attachTCX(program *ebpf.Program, _, target string, index int) (io.Closer, error) {
	at := ebpf.AttachTCXIngress
	if target == "egress" {
		at = ebpf.AttachTCXEgress
	}
	return link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: at})
}
