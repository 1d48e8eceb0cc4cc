//go:build netkit

package main

import (
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// attachNetkit needs link.AttachNetkit, which cilium/ebpf has since 0.14.
func attachNetkit(program *ebpf.Program, target string, index int) (io.Closer, error) {
	at := ebpf.AttachNetkitPrimary
	if target == "peer" {
		at = ebpf.AttachNetkitPeer
	}
	return link.AttachNetkit(link.NetkitOptions{Interface: index, Program: program, Attach: at})
}
